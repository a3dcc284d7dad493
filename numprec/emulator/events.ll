; A listener's list of events, to which instrumented kernels (listen.ll) and their scheduler append.

%Listener = type { ptr, i64, i64, ptr, ptr, i64, ptr, i64, ptr }
; 0 events, 1 count, 2 capacity, 3 full(), 4 scratch, 5 rounds, 6 arrays {first byte, behind the last}, 7 how many,
; 8 counts, of each block of instructions
%Event = type { i64, i32, i32 }
; 0 address, in shared memory from the block's first byte; 1 site, and flags; 2 thread of the block
; flags of an event: bit 30 in shared memory, bit 31 outside the array

define internal void @emu.event(ptr %listener, i64 %value, i32 %site, i32 %thread) {
  %count.p = getelementptr %Listener, ptr %listener, i32 0, i32 1
  %count = load i64, ptr %count.p
  %events = load ptr, ptr %listener
  %e = getelementptr %Event, ptr %events, i64 %count
  store i64 %value, ptr %e
  %site.p = getelementptr %Event, ptr %e, i32 0, i32 1
  store i32 %site, ptr %site.p
  %thread.p = getelementptr %Event, ptr %e, i32 0, i32 2
  store i32 %thread, ptr %thread.p
  %next = add i64 %count, 1
  store i64 %next, ptr %count.p
  %capacity.p = getelementptr %Listener, ptr %listener, i32 0, i32 2
  %capacity = load i64, ptr %capacity.p
  %is.full = icmp eq i64 %next, %capacity
  br i1 %is.full, label %full, label %out
full:
  %full.p = getelementptr %Listener, ptr %listener, i32 0, i32 3
  %f = load ptr, ptr %full.p
  call void %f()
  store i64 0, ptr %count.p
  br label %out
out:
  ret void
}

; what the scheduler tells, see there; `site` is negative
define internal void @emu.hook(ptr %work, i32 %site, i32 %thread, i64 %value) {
  %launch = load ptr, ptr %work
  %p = getelementptr %Launch, ptr %launch, i32 0, i32 28
  %listener = load ptr, ptr %p
  call void @emu.event(ptr %listener, i64 %value, i32 %site, i32 %thread)
  ret void
}
