; The scheduler: it runs the threads of a block, one at a time, on one core of the host.
;
; A GPU thread is a coroutine, @emu.thread, in LLVM's "returned continuation" form: calling it runs it up to the next
; point where it has to wait for others, and returns the function that continues it, or null once it has exited.
; What it waits for stands in its Thread record:
;
;     op        0 runnable   1 at a block barrier   2 at a grid barrier   3 in a warp operation   4 exited
;     mask      the lanes that take part in its warp operation
;     value     what it brings to the operation
;
; Memory of one block, laid out by launch.py: Block (128 bytes), 32 warps of 32 i64 snapshots, shared memory, threads.
; A thread's record (64 bytes) is followed by the frame of its coroutine; `stride` counts both.

%Launch = type { ptr, ptr, ptr, i64, i64, i64, ptr, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i64, i32, i32, i32, i32, i32, i32, ptr, i32, ptr }
; 0 args, 1 warp_order, 2 thread_order, 3 orders, 4 blocks, 5 next, 6 block_order,
; 7 8 9 nctaid, 10 11 12 ntid, 13 threads, 14 warps, 15 shared_bytes, 16 dynamic_bytes, 17 stride,
; 18 error, 19 error_block, 20 at_barrier, 21 at_grid, 22 in_warp, 23 exited, 24 ask, 25 asked, 26 coroutine,
; 27 uses_warps, 28 listener
%Block = type { ptr, ptr, ptr, ptr, i64, i32, i32, i32, i32, i32, i32, i32 }
; 0 launch, 1 shared, 2 threads, 3 snapshots, 4 index, 5 6 7 ctaid, 8 popc, 9 arrived, 10 phase, 11 state
%Thread = type { ptr, ptr, i64, i32, i32, i32, i32, i32, i32, i32, i32 }
; 0 block, 1 resume, 2 value, 3 op, 4 mask, 5 6 7 tid, 8 linear, 9 participants, 10 ballot

declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i32 @llvm.cttz.i32(i32, i1)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare i32 @PyGILState_Ensure()
declare void @PyGILState_Release(i32)
declare i32 @PyErr_CheckSignals()
; those of guard.ll, or ones that do nothing
declare i32 @emu.guarded(ptr, ptr, ptr, i64, i64, i64, i32)
declare ptr @emu.unguard()
declare void @emu.guard(ptr)

; What Python calls: the work is done without its lock.
define i32 @emu_run(ptr %launch, ptr %memory) {
  %thread = call ptr @PyEval_SaveThread()
  %status = call i32 @emu.guarded(ptr @emu.run, ptr %launch, ptr %memory, i64 0, i64 0, i64 0, i32 0)
  call void @PyEval_RestoreThread(ptr %thread)
  ret i32 %status
}
define i32 @emu_cooperate(ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode) {
  %thread = call ptr @PyEval_SaveThread()
  %status = call i32 @emu.guarded(ptr @emu.cooperate, ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode)
  call void @PyEval_RestoreThread(ptr %thread)
  ret i32 %status
}

; Whether to stop: another worker met an error, or a Python handler of a signal raises an exception, which the launch
; then raises (in Python's main thread; in others handlers do not run).
define i1 @emu_ask(ptr %launch) noinline cold {
entry:
  %error.p = getelementptr %Launch, ptr %launch, i32 0, i32 18
  %error = load atomic i32, ptr %error.p monotonic, align 4
  %failed = icmp ne i32 %error, 0
  br i1 %failed, label %stop, label %look
look:
  %flag.p = getelementptr %Launch, ptr %launch, i32 0, i32 24
  store volatile i32 0, ptr %flag.p
  %place = call ptr @emu.unguard()
  %gil = call i32 @PyGILState_Ensure()
  %raised = call i32 @PyErr_CheckSignals()
  call void @PyGILState_Release(i32 %gil)
  call void @emu.guard(ptr %place)
  %nothing = icmp eq i32 %raised, 0
  br i1 %nothing, label %go.on, label %note
note:
  %ignored = cmpxchg ptr %error.p, i32 0, i32 2 monotonic monotonic
  store volatile i32 1, ptr %flag.p
  br label %stop
go.on:
  ret i1 false
stop:
  ret i1 true
}

; @emu.hook(work, what, thread, value), defined by host.py, tells a listener what happens between the threads: -1 a
; block starts (value: its index), -2 it goes on (likewise), -3 its barrier opens (value: threads that have exited), -4
; it waits for the grid (likewise), -5 a warp operation completes (thread: first of the warp; value: the lanes that take
; part, above them the mask). Where nobody listens it is empty.

define internal void @emu.block.start(ptr %launch, ptr %work, i64 %index) noinline {
entry:
  %shared = getelementptr i8, ptr %work, i64 8448
  %bytes.p = getelementptr %Launch, ptr %launch, i32 0, i32 15
  %bytes32 = load i32, ptr %bytes.p
  %bytes = zext i32 %bytes32 to i64
  ; uninitialised shared memory holds NaN in every format
  call void @llvm.memset.p0.i64(ptr %shared, i8 -1, i64 %bytes, i1 false)
  %rounded0 = add i64 %bytes, 127
  %rounded = and i64 %rounded0, -128
  %threads = getelementptr i8, ptr %shared, i64 %rounded
  %snapshots = getelementptr i8, ptr %work, i64 128
  %gx.p = getelementptr %Launch, ptr %launch, i32 0, i32 7
  %gy.p = getelementptr %Launch, ptr %launch, i32 0, i32 8
  %gx = load i32, ptr %gx.p
  %gy = load i32, ptr %gy.p
  %gx64 = zext i32 %gx to i64
  %gy64 = zext i32 %gy to i64
  %cx = urem i64 %index, %gx64
  %row = udiv i64 %index, %gx64
  %cy = urem i64 %row, %gy64
  %cz = udiv i64 %row, %gy64
  %cx32 = trunc i64 %cx to i32
  %cy32 = trunc i64 %cy to i32
  %cz32 = trunc i64 %cz to i32
  store ptr %launch, ptr %work
  %b1 = getelementptr %Block, ptr %work, i32 0, i32 1
  store ptr %shared, ptr %b1
  %b2 = getelementptr %Block, ptr %work, i32 0, i32 2
  store ptr %threads, ptr %b2
  %b3 = getelementptr %Block, ptr %work, i32 0, i32 3
  store ptr %snapshots, ptr %b3
  %b4 = getelementptr %Block, ptr %work, i32 0, i32 4
  store i64 %index, ptr %b4
  %b5 = getelementptr %Block, ptr %work, i32 0, i32 5
  store i32 %cx32, ptr %b5
  %b6 = getelementptr %Block, ptr %work, i32 0, i32 6
  store i32 %cy32, ptr %b6
  %b7 = getelementptr %Block, ptr %work, i32 0, i32 7
  store i32 %cz32, ptr %b7
  %b10 = getelementptr %Block, ptr %work, i32 0, i32 10
  store i32 %cx32, ptr %b10          ; blocks begin at different places of the list of thread orders
  %nx.p = getelementptr %Launch, ptr %launch, i32 0, i32 10
  %ny.p = getelementptr %Launch, ptr %launch, i32 0, i32 11
  %n.p = getelementptr %Launch, ptr %launch, i32 0, i32 13
  %stride.p = getelementptr %Launch, ptr %launch, i32 0, i32 17
  %nx = load i32, ptr %nx.p
  %ny = load i32, ptr %ny.p
  %n = load i32, ptr %n.p
  %stride32 = load i32, ptr %stride.p
  %stride = zext i32 %stride32 to i64
  %coroutine.p = getelementptr %Launch, ptr %launch, i32 0, i32 26
  %coroutine = load ptr, ptr %coroutine.p
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %i.next, %loop ]
  %x = phi i32 [ 0, %entry ], [ %x.next, %loop ]
  %y = phi i32 [ 0, %entry ], [ %y.next, %loop ]
  %z = phi i32 [ 0, %entry ], [ %z.next, %loop ]
  %i64 = zext i32 %i to i64
  %offset = mul i64 %i64, %stride
  %t = getelementptr i8, ptr %threads, i64 %offset
  store ptr %work, ptr %t
  %t1 = getelementptr %Thread, ptr %t, i32 0, i32 1
  store ptr %coroutine, ptr %t1
  %t2 = getelementptr %Thread, ptr %t, i32 0, i32 2
  store i64 0, ptr %t2
  %t3 = getelementptr %Thread, ptr %t, i32 0, i32 3
  store i32 0, ptr %t3
  %t5 = getelementptr %Thread, ptr %t, i32 0, i32 5
  store i32 %x, ptr %t5
  %t6 = getelementptr %Thread, ptr %t, i32 0, i32 6
  store i32 %y, ptr %t6
  %t7 = getelementptr %Thread, ptr %t, i32 0, i32 7
  store i32 %z, ptr %t7
  %t8 = getelementptr %Thread, ptr %t, i32 0, i32 8
  store i32 %i, ptr %t8
  %x1 = add i32 %x, 1
  %x.wraps = icmp eq i32 %x1, %nx
  %x.next = select i1 %x.wraps, i32 0, i32 %x1
  %carry = zext i1 %x.wraps to i32
  %y1 = add i32 %y, %carry
  %y.wraps = icmp eq i32 %y1, %ny
  %y.next = select i1 %y.wraps, i32 0, i32 %y1
  %z1 = add i32 %z, 1
  %z.next = select i1 %y.wraps, i32 %z1, i32 %z
  %i.next = add i32 %i, 1
  %done = icmp eq i32 %i.next, %n
  br i1 %done, label %out, label %loop
out:
  call void @emu.hook(ptr %work, i32 -1, i32 0, i64 %index)
  ret void
}

; runs a thread up to its next wait and returns the op it then has
define internal i32 @emu.resume(ptr %t) alwaysinline {
  %resume.p = getelementptr %Thread, ptr %t, i32 0, i32 1
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  %resume = load ptr, ptr %resume.p
  %frame = getelementptr i8, ptr %t, i64 64
  %next = call ptr %resume(ptr %frame, i1 zeroext false)
  store ptr %next, ptr %resume.p
  %gone = icmp eq ptr %next, null
  br i1 %gone, label %exited, label %waits
exited:
  store i32 4, ptr %op.p
  ret i32 4
waits:
  %op = load i32, ptr %op.p
  ret i32 %op
}

; Where the threads stand after a pass: 0 all have exited, 1 all that have not wait for the grid, 3 the block barrier
; opens, 2 deadlock, which is noted in the launch, or the launch was told to stop.
define internal i32 @emu.block.state(ptr %work, i32 %barrier, i32 %grid, i32 %warp, i32 %gone, i32 %popc) {
entry:
  %launch = load ptr, ptr %work
  %n.p = getelementptr %Launch, ptr %launch, i32 0, i32 13
  %n = load i32, ptr %n.p
  %popc.p = getelementptr %Block, ptr %work, i32 0, i32 8
  store i32 %popc, ptr %popc.p
  %arrived.p = getelementptr %Block, ptr %work, i32 0, i32 9
  store i32 %barrier, ptr %arrived.p
  %phase.p = getelementptr %Block, ptr %work, i32 0, i32 10
  %phase = load i32, ptr %phase.p
  %phase.next = add i32 %phase, 1
  store i32 %phase.next, ptr %phase.p
  %flag.p = getelementptr %Launch, ptr %launch, i32 0, i32 24
  %flag = load volatile i32, ptr %flag.p
  %quiet = icmp eq i32 %flag, 0
  br i1 %quiet, label %counted, label %ask
ask:
  %told = call i1 @emu_ask(ptr %launch)
  br i1 %told, label %end, label %counted
counted:
  %all.gone = icmp eq i32 %gone, %n
  br i1 %all.gone, label %finished, label %alive
finished:
  ret i32 0
alive:
  %b = add i32 %barrier, %gone
  %at.barrier = icmp eq i32 %b, %n
  br i1 %at.barrier, label %opens, label %not.barrier
opens:
  %gone64 = zext i32 %gone to i64
  call void @emu.hook(ptr %work, i32 -3, i32 0, i64 %gone64)
  ret i32 3
not.barrier:
  %g = add i32 %grid, %gone
  %at.grid = icmp eq i32 %g, %n
  br i1 %at.grid, label %for.grid, label %stuck
for.grid:
  %gone64.g = zext i32 %gone to i64
  call void @emu.hook(ptr %work, i32 -4, i32 0, i64 %gone64.g)
  ret i32 1
stuck:
  %error.p = getelementptr %Launch, ptr %launch, i32 0, i32 18
  %first = cmpxchg ptr %error.p, i32 0, i32 1 monotonic monotonic
  %mine = extractvalue { i32, i1 } %first, 1
  br i1 %mine, label %note, label %end
note:
  %index.p = getelementptr %Block, ptr %work, i32 0, i32 4
  %index = load i64, ptr %index.p
  %e0 = getelementptr %Launch, ptr %launch, i32 0, i32 19
  store i64 %index, ptr %e0
  %e1 = getelementptr %Launch, ptr %launch, i32 0, i32 20
  store i32 %barrier, ptr %e1
  %e2 = getelementptr %Launch, ptr %launch, i32 0, i32 21
  store i32 %grid, ptr %e2
  %e3 = getelementptr %Launch, ptr %launch, i32 0, i32 22
  store i32 %warp, ptr %e3
  %e4 = getelementptr %Launch, ptr %launch, i32 0, i32 23
  store i32 %gone, ptr %e4
  br label %end
end:
  ret i32 2
}

; the order in which a pass visits warps, and the lanes within each
define internal { ptr, ptr } @emu.orders(ptr %work) alwaysinline {
  %launch = load ptr, ptr %work
  %phase.p = getelementptr %Block, ptr %work, i32 0, i32 10
  %phase32 = load i32, ptr %phase.p
  %phase = zext i32 %phase32 to i64
  %count.p = getelementptr %Launch, ptr %launch, i32 0, i32 3
  %count = load i64, ptr %count.p
  %k = urem i64 %phase, %count
  %n.p = getelementptr %Launch, ptr %launch, i32 0, i32 13
  %n32 = load i32, ptr %n.p
  %n = zext i32 %n32 to i64
  %w.p = getelementptr %Launch, ptr %launch, i32 0, i32 14
  %w32 = load i32, ptr %w.p
  %w = zext i32 %w32 to i64
  %warps.p = getelementptr %Launch, ptr %launch, i32 0, i32 1
  %threads.p = getelementptr %Launch, ptr %launch, i32 0, i32 2
  %warps = load ptr, ptr %warps.p
  %threads = load ptr, ptr %threads.p
  %kw = mul i64 %k, %w
  %kn = mul i64 %k, %n
  %warps.k = getelementptr i32, ptr %warps, i64 %kw
  %threads.k = getelementptr i32, ptr %threads, i64 %kn
  %r0 = insertvalue { ptr, ptr } undef, ptr %warps.k, 0
  %r1 = insertvalue { ptr, ptr } %r0, ptr %threads.k, 1
  ret { ptr, ptr } %r1
}

; Runs a block whose kernel has no warp operations: every pass resumes every thread that has not exited.
define internal i32 @emu.block.step.plain(ptr %work) noinline {
entry:
  %launch = load ptr, ptr %work
  %threads.p = getelementptr %Block, ptr %work, i32 0, i32 2
  %threads = load ptr, ptr %threads.p
  %n.p = getelementptr %Launch, ptr %launch, i32 0, i32 13
  %n = load i32, ptr %n.p
  %warps.p = getelementptr %Launch, ptr %launch, i32 0, i32 14
  %warps = load i32, ptr %warps.p
  %stride.p = getelementptr %Launch, ptr %launch, i32 0, i32 17
  %stride32 = load i32, ptr %stride.p
  %stride = zext i32 %stride32 to i64
  br label %pass
pass:
  %orders = call { ptr, ptr } @emu.orders(ptr %work)
  %warp.order = extractvalue { ptr, ptr } %orders, 0
  %thread.order = extractvalue { ptr, ptr } %orders, 1
  br label %warp
warp:
  %wi = phi i32 [ 0, %pass ], [ %wi.next, %warp.end ]
  %nb0 = phi i32 [ 0, %pass ], [ %nb, %warp.end ]
  %ng0 = phi i32 [ 0, %pass ], [ %ng, %warp.end ]
  %ne0 = phi i32 [ 0, %pass ], [ %ne, %warp.end ]
  %pc0 = phi i32 [ 0, %pass ], [ %pc, %warp.end ]
  %w.p = getelementptr i32, ptr %warp.order, i32 %wi
  %w = load i32, ptr %w.p
  %first = shl i32 %w, 5
  %end0 = add i32 %first, 32
  %partial = icmp ult i32 %n, %end0
  %end = select i1 %partial, i32 %n, i32 %end0
  br label %lane
lane:
  %i = phi i32 [ %first, %warp ], [ %i.next, %lane.end ]
  %nb1 = phi i32 [ %nb0, %warp ], [ %nb, %lane.end ]
  %ng1 = phi i32 [ %ng0, %warp ], [ %ng, %lane.end ]
  %ne1 = phi i32 [ %ne0, %warp ], [ %ne, %lane.end ]
  %pc1 = phi i32 [ %pc0, %warp ], [ %pc, %lane.end ]
  %t.p = getelementptr i32, ptr %thread.order, i32 %i
  %t32 = load i32, ptr %t.p
  %t64 = zext i32 %t32 to i64
  %offset = mul i64 %t64, %stride
  %t = getelementptr i8, ptr %threads, i64 %offset
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  %op0 = load i32, ptr %op.p
  %was.gone = icmp eq i32 %op0, 4
  br i1 %was.gone, label %lane.end, label %run
run:
  %op1 = call i32 @emu.resume(ptr %t)
  br label %lane.end
lane.end:
  %op = phi i32 [ 4, %lane ], [ %op1, %run ]
  %value.p = getelementptr %Thread, ptr %t, i32 0, i32 2
  %value64 = load i64, ptr %value.p
  %value = trunc i64 %value64 to i32
  %is.b = icmp eq i32 %op, 1
  %is.g = icmp eq i32 %op, 2
  %is.e = icmp eq i32 %op, 4
  %d.b = zext i1 %is.b to i32
  %d.g = zext i1 %is.g to i32
  %d.e = zext i1 %is.e to i32
  %d.p = select i1 %is.b, i32 %value, i32 0
  %nb = add i32 %nb1, %d.b
  %ng = add i32 %ng1, %d.g
  %ne = add i32 %ne1, %d.e
  %pc = add i32 %pc1, %d.p
  %i.next = add i32 %i, 1
  %warp.done = icmp eq i32 %i.next, %end
  br i1 %warp.done, label %warp.end, label %lane
warp.end:
  %wi.next = add i32 %wi, 1
  %pass.done = icmp eq i32 %wi.next, %warps
  br i1 %pass.done, label %state, label %warp
state:
  %s = call i32 @emu.block.state(ptr %work, i32 %nb, i32 %ng, i32 0, i32 %ne, i32 %pc)
  %again = icmp eq i32 %s, 3
  br i1 %again, label %pass, label %out
out:
  ret i32 %s
}

; Lets the lanes of one warp go on as far as they can. A warp operation completes when every lane of its mask that has
; not exited has arrived at it; then each taking part gets a snapshot of the values brought.
define internal void @emu.warp.run(ptr %work, i32 %first, i32 %end, ptr %thread.order, ptr %threads, i64 %stride) noinline {
entry:
  %snapshots.p = getelementptr %Block, ptr %work, i32 0, i32 3
  %snapshots = load ptr, ptr %snapshots.p
  %first64 = zext i32 %first to i64
  %warp.base.offset = mul i64 %first64, %stride
  %base = getelementptr i8, ptr %threads, i64 %warp.base.offset
  %snapshot = getelementptr i64, ptr %snapshots, i64 %first64
  %count = sub i32 %end, %first
  %launch = load ptr, ptr %work
  %flag.p = getelementptr %Launch, ptr %launch, i32 0, i32 24
  br label %pass
; a warp that is told to stop is left as it stands
pass:
  %flag = load volatile i32, ptr %flag.p
  %quiet = icmp eq i32 %flag, 0
  br i1 %quiet, label %pass.on, label %ask
ask:
  %told = call i1 @emu_ask(ptr %launch)
  br i1 %told, label %out, label %pass.on
pass.on:
  br label %lane
lane:
  %i = phi i32 [ %first, %pass.on ], [ %i.next, %lane.end ]
  %ran = phi i1 [ false, %pass.on ], [ %ran.next, %lane.end ]
  %t.p = getelementptr i32, ptr %thread.order, i32 %i
  %t32 = load i32, ptr %t.p
  %t64 = zext i32 %t32 to i64
  %offset = mul i64 %t64, %stride
  %t = getelementptr i8, ptr %threads, i64 %offset
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  %op0 = load i32, ptr %op.p
  %runnable = icmp eq i32 %op0, 0
  br i1 %runnable, label %run, label %lane.end
run:
  %op1 = call i32 @emu.resume(ptr %t)
  br label %lane.end
lane.end:
  %ran.next = phi i1 [ %ran, %lane ], [ true, %run ]
  %i.next = add i32 %i, 1
  %pass.done = icmp eq i32 %i.next, %end
  br i1 %pass.done, label %census, label %lane
census:
  br i1 %ran.next, label %look, label %out
; which lanes are alive, and which wait in a warp operation
look:
  %j = phi i32 [ 0, %census ], [ %j.next, %look ]
  %alive = phi i32 [ 0, %census ], [ %alive.next, %look ]
  %waiting = phi i32 [ 0, %census ], [ %waiting.next, %look ]
  %j64 = zext i32 %j to i64
  %j.offset = mul i64 %j64, %stride
  %tj = getelementptr i8, ptr %base, i64 %j.offset
  %opj.p = getelementptr %Thread, ptr %tj, i32 0, i32 3
  %opj = load i32, ptr %opj.p
  %bit = shl i32 1, %j
  %is.gone = icmp eq i32 %opj, 4
  %is.waiting = icmp eq i32 %opj, 3
  %alive.bit = select i1 %is.gone, i32 0, i32 %bit
  %waiting.bit = select i1 %is.waiting, i32 %bit, i32 0
  %alive.next = or i32 %alive, %alive.bit
  %waiting.next = or i32 %waiting, %waiting.bit
  %j.next = add i32 %j, 1
  %look.done = icmp eq i32 %j.next, %count
  br i1 %look.done, label %groups, label %look
; `todo` holds the waiting lanes whose group has not been looked at
groups:
  %todo = phi i32 [ %waiting.next, %look ], [ %todo.next, %group.end ]
  %none = icmp eq i32 %todo, 0
  br i1 %none, label %pass, label %group
group:
  %lead = call i32 @llvm.cttz.i32(i32 %todo, i1 true)
  %lead64 = zext i32 %lead to i64
  %lead.offset = mul i64 %lead64, %stride
  %tl = getelementptr i8, ptr %base, i64 %lead.offset
  %mask.p = getelementptr %Thread, ptr %tl, i32 0, i32 4
  %mask = load i32, ptr %mask.p
  %lead.bit = shl i32 1, %lead
  %todo.without = xor i32 %todo, %lead.bit
  %members = and i32 %mask, %alive.next
  %missing = xor i32 %waiting.next, -1
  %absent = and i32 %members, %missing
  %complete0 = icmp eq i32 %absent, 0
  %named = and i32 %mask, %lead.bit
  %names.itself = icmp ne i32 %named, 0
  %complete1 = and i1 %complete0, %names.itself
  br i1 %complete1, label %same, label %group.end
; every member must have come with the same mask
same:
  %left = phi i32 [ %members, %group ], [ %left.next, %same.next ]
  %m = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %m64 = zext i32 %m to i64
  %m.offset = mul i64 %m64, %stride
  %tm = getelementptr i8, ptr %base, i64 %m.offset
  %mm.p = getelementptr %Thread, ptr %tm, i32 0, i32 4
  %mm = load i32, ptr %mm.p
  %agrees = icmp eq i32 %mm, %mask
  br i1 %agrees, label %same.next, label %group.end
same.next:
  %less = add i32 %left, -1
  %left.next = and i32 %left, %less
  %same.done = icmp eq i32 %left.next, 0
  br i1 %same.done, label %complete, label %same
complete:
  %mask64 = zext i32 %mask to i64
  %mask.high = shl i64 %mask64, 32
  %members64 = zext i32 %members to i64
  %mask.members = or i64 %mask.high, %members64
  call void @emu.hook(ptr %work, i32 -5, i32 %first, i64 %mask.members)
  br label %gather
gather:
  %gl = phi i32 [ %members, %complete ], [ %gl.next, %gather ]
  %ballot = phi i32 [ 0, %complete ], [ %ballot.next, %gather ]
  %g = call i32 @llvm.cttz.i32(i32 %gl, i1 true)
  %g64 = zext i32 %g to i64
  %g.offset = mul i64 %g64, %stride
  %tg = getelementptr i8, ptr %base, i64 %g.offset
  %vg.p = getelementptr %Thread, ptr %tg, i32 0, i32 2
  %vg = load i64, ptr %vg.p
  %slot = getelementptr i64, ptr %snapshot, i64 %g64
  store i64 %vg, ptr %slot
  %odd64 = and i64 %vg, 1
  %odd = trunc i64 %odd64 to i32
  %vote = shl i32 %odd, %g
  %ballot.next = or i32 %ballot, %vote
  %gl1 = add i32 %gl, -1
  %gl.next = and i32 %gl, %gl1
  %gather.done = icmp eq i32 %gl.next, 0
  br i1 %gather.done, label %release, label %gather
release:
  %rl = phi i32 [ %members, %gather ], [ %rl.next, %release ]
  %r = call i32 @llvm.cttz.i32(i32 %rl, i1 true)
  %r64 = zext i32 %r to i64
  %r.offset = mul i64 %r64, %stride
  %tr = getelementptr i8, ptr %base, i64 %r.offset
  %opr.p = getelementptr %Thread, ptr %tr, i32 0, i32 3
  store i32 0, ptr %opr.p
  %participants.p = getelementptr %Thread, ptr %tr, i32 0, i32 9
  store i32 %members, ptr %participants.p
  %ballot.p = getelementptr %Thread, ptr %tr, i32 0, i32 10
  store i32 %ballot.next, ptr %ballot.p
  %rl1 = add i32 %rl, -1
  %rl.next = and i32 %rl, %rl1
  %release.done = icmp eq i32 %rl.next, 0
  br i1 %release.done, label %released, label %release
released:
  %not.members = xor i32 %members, -1
  %todo.rest = and i32 %todo, %not.members
  br label %group.end
group.end:
  %todo.next = phi i32 [ %todo.without, %group ], [ %todo.without, %same ], [ %todo.rest, %released ]
  br label %groups
out:
  ret void
}

; Runs a block whose kernel has warp operations.
define internal i32 @emu.block.step.warps(ptr %work) noinline {
entry:
  %launch = load ptr, ptr %work
  %threads.p = getelementptr %Block, ptr %work, i32 0, i32 2
  %threads = load ptr, ptr %threads.p
  %n.p = getelementptr %Launch, ptr %launch, i32 0, i32 13
  %n = load i32, ptr %n.p
  %warps.p = getelementptr %Launch, ptr %launch, i32 0, i32 14
  %warps = load i32, ptr %warps.p
  %stride.p = getelementptr %Launch, ptr %launch, i32 0, i32 17
  %stride32 = load i32, ptr %stride.p
  %stride = zext i32 %stride32 to i64
  br label %open
; a barrier has opened, or the block is (re)entered: whoever waits at a barrier may go on
open:
  %o = phi i32 [ 0, %entry ], [ %o.next, %open.end ], [ 0, %state ]
  %o64 = zext i32 %o to i64
  %o.offset = mul i64 %o64, %stride
  %to = getelementptr i8, ptr %threads, i64 %o.offset
  %opo.p = getelementptr %Thread, ptr %to, i32 0, i32 3
  %opo = load i32, ptr %opo.p
  %waits0 = add i32 %opo, -1
  %waits = icmp ult i32 %waits0, 2
  br i1 %waits, label %let.go, label %open.end
let.go:
  store i32 0, ptr %opo.p
  br label %open.end
open.end:
  %o.next = add i32 %o, 1
  %open.done = icmp eq i32 %o.next, %n
  br i1 %open.done, label %pass, label %open
pass:
  %orders = call { ptr, ptr } @emu.orders(ptr %work)
  %warp.order = extractvalue { ptr, ptr } %orders, 0
  %thread.order = extractvalue { ptr, ptr } %orders, 1
  br label %warp
warp:
  %wi = phi i32 [ 0, %pass ], [ %wi.next, %warp ]
  %w.p = getelementptr i32, ptr %warp.order, i32 %wi
  %w = load i32, ptr %w.p
  %first = shl i32 %w, 5
  %end0 = add i32 %first, 32
  %partial = icmp ult i32 %n, %end0
  %end = select i1 %partial, i32 %n, i32 %end0
  call void @emu.warp.run(ptr %work, i32 %first, i32 %end, ptr %thread.order, ptr %threads, i64 %stride)
  %wi.next = add i32 %wi, 1
  %warps.done = icmp eq i32 %wi.next, %warps
  br i1 %warps.done, label %census, label %warp
census:
  %i = phi i32 [ 0, %warp ], [ %i.next, %census ]
  %nb1 = phi i32 [ 0, %warp ], [ %nb, %census ]
  %ng1 = phi i32 [ 0, %warp ], [ %ng, %census ]
  %nw1 = phi i32 [ 0, %warp ], [ %nw, %census ]
  %ne1 = phi i32 [ 0, %warp ], [ %ne, %census ]
  %pc1 = phi i32 [ 0, %warp ], [ %pc, %census ]
  %i64 = zext i32 %i to i64
  %offset = mul i64 %i64, %stride
  %t = getelementptr i8, ptr %threads, i64 %offset
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  %op = load i32, ptr %op.p
  %value.p = getelementptr %Thread, ptr %t, i32 0, i32 2
  %value64 = load i64, ptr %value.p
  %value = trunc i64 %value64 to i32
  %is.b = icmp eq i32 %op, 1
  %is.g = icmp eq i32 %op, 2
  %is.w = icmp eq i32 %op, 3
  %is.e = icmp eq i32 %op, 4
  %d.b = zext i1 %is.b to i32
  %d.g = zext i1 %is.g to i32
  %d.w = zext i1 %is.w to i32
  %d.e = zext i1 %is.e to i32
  %d.p = select i1 %is.b, i32 %value, i32 0
  %nb = add i32 %nb1, %d.b
  %ng = add i32 %ng1, %d.g
  %nw = add i32 %nw1, %d.w
  %ne = add i32 %ne1, %d.e
  %pc = add i32 %pc1, %d.p
  %i.next = add i32 %i, 1
  %census.done = icmp eq i32 %i.next, %n
  br i1 %census.done, label %state, label %census
state:
  %s = call i32 @emu.block.state(ptr %work, i32 %nb, i32 %ng, i32 %nw, i32 %ne, i32 %pc)
  %again = icmp eq i32 %s, 3
  br i1 %again, label %open, label %out
out:
  ret i32 %s
}

define internal i32 @emu.block.step(ptr %work) {
  %launch = load ptr, ptr %work
  %index.p = getelementptr %Block, ptr %work, i32 0, i32 4
  %index = load i64, ptr %index.p
  call void @emu.hook(ptr %work, i32 -2, i32 0, i64 %index)
  %flag.p = getelementptr %Launch, ptr %launch, i32 0, i32 27
  %flag = load i32, ptr %flag.p
  %plain = icmp eq i32 %flag, 0
  br i1 %plain, label %without, label %with
without:
  %s0 = call i32 @emu.block.step.plain(ptr %work)
  ret i32 %s0
with:
  %s1 = call i32 @emu.block.step.warps(ptr %work)
  ret i32 %s1
}

; One worker of an ordinary launch: takes block after block until none is left. What follows the block's memory among
; the arguments is for @emu.cooperate.
define internal i32 @emu.run(ptr %launch, ptr %work, i64 %bytes, i64 %first, i64 %last, i32 %mode) {
entry:
  %next.p = getelementptr %Launch, ptr %launch, i32 0, i32 5
  %blocks.p = getelementptr %Launch, ptr %launch, i32 0, i32 4
  %blocks = load i64, ptr %blocks.p
  %order.p = getelementptr %Launch, ptr %launch, i32 0, i32 6
  %order = load ptr, ptr %order.p
  %ordered = icmp eq ptr %order, null
  %error.p = getelementptr %Launch, ptr %launch, i32 0, i32 18
  br label %take
take:
  %k = atomicrmw add ptr %next.p, i64 1 monotonic
  %error = load atomic i32, ptr %error.p monotonic, align 4
  %failed = icmp ne i32 %error, 0
  %none = icmp uge i64 %k, %blocks
  %stop = or i1 %failed, %none
  br i1 %stop, label %out, label %pick
pick:
  br i1 %ordered, label %run, label %shuffled
shuffled:
  %index.p = getelementptr i64, ptr %order, i64 %k
  %picked = load i64, ptr %index.p
  br label %run
run:
  %index = phi i64 [ %k, %pick ], [ %picked, %shuffled ]
  call void @emu.block.start(ptr %launch, ptr %work, i64 %index)
  %s = call i32 @emu.block.step(ptr %work)
  %ok = icmp eq i32 %s, 0
  br i1 %ok, label %take, label %out.bad
out:
  ret i32 0
out.bad:
  ret i32 %s
}

; Blocks first <= b < last of a cooperative launch, each with a memory of its own. `mode` 0 starts them and runs them up
; to the grid barrier, 1 goes on from there, 2 starts them and runs them to their end. Returns 0 when all are done, 1
; when all wait for the grid, 2 on a deadlock, 3 when some wait for the grid and others have exited.
define internal i32 @emu.cooperate(ptr %launch, ptr %works, i64 %work.bytes, i64 %first, i64 %last, i32 %mode) {
entry:
  %goes.on = icmp eq i32 %mode, 1
  br i1 %goes.on, label %round, label %start
start:
  %b0 = phi i64 [ %first, %entry ], [ %b0.next, %start ]
  %o0 = mul i64 %b0, %work.bytes
  %w0 = getelementptr i8, ptr %works, i64 %o0
  call void @emu.block.start(ptr %launch, ptr %w0, i64 %b0)
  %s0 = getelementptr %Block, ptr %w0, i32 0, i32 11
  store i32 1, ptr %s0
  %b0.next = add i64 %b0, 1
  %started = icmp eq i64 %b0.next, %last
  br i1 %started, label %round, label %start
round:
  br label %block
block:
  %b = phi i64 [ %first, %round ], [ %b.next, %block.end ]
  %any = phi i32 [ 0, %round ], [ %any.next, %block.end ]
  %all = phi i32 [ 1, %round ], [ %all.next, %block.end ]
  %o = mul i64 %b, %work.bytes
  %w = getelementptr i8, ptr %works, i64 %o
  %state.p = getelementptr %Block, ptr %w, i32 0, i32 11
  %state = load i32, ptr %state.p
  %over = icmp eq i32 %state, 0
  br i1 %over, label %block.end, label %step
step:
  %s = call i32 @emu.block.step(ptr %w)
  store i32 %s, ptr %state.p
  %bad = icmp eq i32 %s, 2
  br i1 %bad, label %deadlock, label %block.end
block.end:
  %now = phi i32 [ 0, %block ], [ %s, %step ]
  %any.next = or i32 %any, %now
  %all.next = and i32 %all, %now
  %b.next = add i64 %b, 1
  %round.done = icmp eq i64 %b.next, %last
  br i1 %round.done, label %after, label %block
after:
  %mixed = icmp ne i32 %any.next, %all.next
  br i1 %mixed, label %left.behind, label %agreed
left.behind:
  ret i32 3
agreed:
  %whole = icmp eq i32 %mode, 2
  %waits = icmp ne i32 %any.next, 0
  %again = and i1 %whole, %waits
  br i1 %again, label %round, label %out
out:
  ret i32 %any.next
deadlock:
  ret i32 2
}

