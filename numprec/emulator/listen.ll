; What the reports of an instrumented kernel do: each is an event, appended to the list of events.ll.
; The layouts of Launch, Block and Thread are those of scheduler.ll.

define internal ptr @emu.listener(ptr %t) alwaysinline {
  %block = load ptr, ptr %t, !invariant.load !900
  %launch = load ptr, ptr %block, !invariant.load !900
  %p = getelementptr %Launch, ptr %launch, i32 0, i32 28
  %listener = load ptr, ptr %p, !invariant.load !900
  ret ptr %listener
}
define internal i64 @emu.shared.base(ptr %t) alwaysinline {
  %block = load ptr, ptr %t, !invariant.load !900
  %p = getelementptr %Block, ptr %block, i32 0, i32 1
  %shared = load ptr, ptr %p, !invariant.load !900
  %base = ptrtoint ptr %shared to i64
  ret i64 %base
}
define internal ptr @emu.noted(ptr %t, i64 %value, i32 %site, i1 %ok, ptr %address) alwaysinline {
  %listener = call ptr @emu.listener(ptr %t)
  %bad = or i32 %site, -2147483648
  %what = select i1 %ok, i32 %site, i32 %bad
  %linear.p = getelementptr %Thread, ptr %t, i32 0, i32 8
  %linear = load i32, ptr %linear.p, !invariant.load !900
  call void @emu.event(ptr %listener, i64 %value, i32 %what, i32 %linear)
  %scratch.p = getelementptr %Listener, ptr %listener, i32 0, i32 4
  %scratch = load ptr, ptr %scratch.p
  %r = select i1 %ok, ptr %address, ptr %scratch
  ret ptr %r
}

; whether [a, a + bytes) lies within [first, last), in unsigned numbers
define internal i1 @emu.within(i64 %a, i64 %bytes, i64 %first, i64 %last) alwaysinline {
  %from = sub i64 %a, %first
  %size = sub i64 %last, %first
  %room = sub i64 %size, %bytes
  %fits = icmp ule i64 %bytes, %size
  %inside = icmp ule i64 %from, %room
  %r = and i1 %fits, %inside
  ret i1 %r
}

define internal ptr @emu.note.global(ptr %t, ptr %address, i32 %site, i64 %bytes, i32 %array) alwaysinline {
  %listener = call ptr @emu.listener(ptr %t)
  %arrays.p = getelementptr %Listener, ptr %listener, i32 0, i32 6
  %arrays = load ptr, ptr %arrays.p
  %first.p = getelementptr { i64, i64 }, ptr %arrays, i32 %array
  %last.p = getelementptr { i64, i64 }, ptr %arrays, i32 %array, i32 1
  %first = load i64, ptr %first.p
  %last = load i64, ptr %last.p
  %a = ptrtoint ptr %address to i64
  %ok = call i1 @emu.within(i64 %a, i64 %bytes, i64 %first, i64 %last)
  %r = call ptr @emu.noted(ptr %t, i64 %a, i32 %site, i1 %ok, ptr %address)
  ret ptr %r
}

; %size 0 is dynamic shared memory
define internal ptr @emu.note.shared(ptr %t, ptr %address, i32 %site, i64 %bytes, i64 %offset, i64 %size) alwaysinline {
  %base = call i64 @emu.shared.base(ptr %t)
  %a = ptrtoint ptr %address to i64
  %from = sub i64 %a, %base
  %dynamic32 = call i32 @emu.launch.i32(ptr %t, i32 92)
  %dynamic = zext i32 %dynamic32 to i64
  %is.dynamic = icmp eq i64 %size, 0
  %length = select i1 %is.dynamic, i64 %dynamic, i64 %size
  %last = add i64 %offset, %length
  %ok = call i1 @emu.within(i64 %from, i64 %bytes, i64 %offset, i64 %last)
  %flagged = or i32 %site, 1073741824
  %r = call ptr @emu.noted(ptr %t, i64 %from, i32 %flagged, i1 %ok, ptr %address)
  ret ptr %r
}

; a thread's own array: only what lies outside is an event
define internal ptr @emu.note.local(ptr %t, ptr %address, i32 %site, i64 %bytes, ptr %base, i64 %size) alwaysinline {
  %a = ptrtoint ptr %address to i64
  %first = ptrtoint ptr %base to i64
  %from = sub i64 %a, %first
  %room = sub i64 %size, %bytes
  %ok = icmp ule i64 %from, %room
  br i1 %ok, label %out, label %outside
outside:
  %scratch = call ptr @emu.noted.outside(ptr %t, i64 %from, i32 %site)
  br label %out
out:
  %r = phi ptr [ %address, %0 ], [ %scratch, %outside ]
  ret ptr %r
}
; the same for an element: returns an index that lies inside
define internal i64 @emu.note.index(ptr %t, i64 %index, i32 %site, i64 %count, i64 %bytes) alwaysinline {
  %ok = icmp ult i64 %index, %count
  br i1 %ok, label %out, label %outside
outside:
  %from = mul i64 %index, %bytes
  %scratch = call ptr @emu.noted.outside(ptr %t, i64 %from, i32 %site)
  br label %out
out:
  %r = select i1 %ok, i64 %index, i64 0
  ret i64 %r
}
define internal ptr @emu.noted.outside(ptr %t, i64 %from, i32 %site) noinline cold {
  %r = call ptr @emu.noted(ptr %t, i64 %from, i32 %site, i1 false, ptr null)
  ret ptr %r
}

; a pointer that no array can be told from: any of the launch's will do, and the thread's own memory
define internal ptr @emu.note.anywhere(ptr %t, ptr %address, i32 %site, i64 %bytes) noinline {
entry:
  %a = ptrtoint ptr %address to i64
  %base = call i64 @emu.shared.base(ptr %t)
  %shared32 = call i32 @emu.launch.i32(ptr %t, i32 88)
  %shared.bytes = zext i32 %shared32 to i64
  %shared.last = add i64 %base, %shared.bytes
  %in.shared = call i1 @emu.within(i64 %a, i64 %bytes, i64 %base, i64 %shared.last)
  br i1 %in.shared, label %shared, label %own
shared:
  %from = sub i64 %a, %base
  %flagged = or i32 %site, 1073741824
  %r0 = call ptr @emu.noted(ptr %t, i64 %from, i32 %flagged, i1 true, ptr %address)
  ret ptr %r0
own:
  %frame = ptrtoint ptr %t to i64
  %stride32 = call i32 @emu.launch.i32(ptr %t, i32 96)
  %stride = zext i32 %stride32 to i64
  %frame.last = add i64 %frame, %stride
  %in.frame = call i1 @emu.within(i64 %a, i64 %bytes, i64 %frame, i64 %frame.last)
  br i1 %in.frame, label %local, label %global
local:
  ret ptr %address
global:
  %listener = call ptr @emu.listener(ptr %t)
  %arrays.p = getelementptr %Listener, ptr %listener, i32 0, i32 6
  %arrays = load ptr, ptr %arrays.p
  %count.p = getelementptr %Listener, ptr %listener, i32 0, i32 7
  %count = load i64, ptr %count.p
  br label %look
look:
  %i = phi i64 [ 0, %global ], [ %i.next, %next ]
  %done = icmp eq i64 %i, %count
  br i1 %done, label %out, label %one
one:
  %first.p = getelementptr { i64, i64 }, ptr %arrays, i64 %i
  %last.p = getelementptr { i64, i64 }, ptr %arrays, i64 %i, i32 1
  %first = load i64, ptr %first.p
  %last = load i64, ptr %last.p
  %ok = call i1 @emu.within(i64 %a, i64 %bytes, i64 %first, i64 %last)
  br i1 %ok, label %out, label %next
next:
  %i.next = add i64 %i, 1
  br label %look
out:
  %found = phi i1 [ false, %look ], [ true, %one ]
  %r1 = call ptr @emu.noted(ptr %t, i64 %a, i32 %site, i1 %found, ptr %address)
  ret ptr %r1
}

; a thread arrives at a barrier or a warp operation
define internal void @emu.note.wait(ptr %t, i32 %site) noinline {
  %ignored = call ptr @emu.noted(ptr %t, i64 0, i32 %site, i1 true, ptr null)
  ret void
}

; A round of a loop: whether the launch has used up its rounds, or was told to stop. Then all its threads end, each at
; its next loop.
define internal i1 @emu.note.round(ptr %t, i32 %site) noinline {
  %listener = call ptr @emu.listener(ptr %t)
  %rounds.p = getelementptr %Listener, ptr %listener, i32 0, i32 5
  %rounds = load i64, ptr %rounds.p
  %left = add i64 %rounds, -1
  store i64 %left, ptr %rounds.p
  %over = icmp slt i64 %left, 0
  br i1 %over, label %ends, label %look
look:
  %stopped = call i1 @emu.stopped(ptr %t)
  br i1 %stopped, label %out, label %goes.on
goes.on:
  ret i1 false
ends:
  %first = icmp eq i64 %left, -1
  br i1 %first, label %tell, label %out
tell:
  %ignored = call ptr @emu.noted(ptr %t, i64 0, i32 %site, i1 true, ptr null)
  br label %out
out:
  ret i1 true
}

; a thread comes to a block of instructions
define internal void @emu.note.block(ptr %t, i32 %block) alwaysinline {
  %listener = call ptr @emu.listener(ptr %t)
  %counts.p = getelementptr %Listener, ptr %listener, i32 0, i32 8
  %counts = load ptr, ptr %counts.p, !invariant.load !900
  %p = getelementptr i64, ptr %counts, i32 %block
  %n = load i64, ptr %p
  %more = add i64 %n, 1
  store i64 %more, ptr %p
  ret void
}
