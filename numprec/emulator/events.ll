; A listener's list of events, to which instrumented kernels (listen.ll) and their scheduler append.

%Listener = type { ptr, ptr, ptr, ptr, ptr, i64, ptr, i64, ptr }
; 0 events, 1 the next one's place, 2 behind the last one's, 3 full(), 4 scratch, 5 rounds,
; 6 arrays {first byte, behind the last}, 7 how many, 8 counts, of each block of instructions
; An event is two i64: an address, in shared memory from the block's first byte; and site and flags, above them the
; thread of the block. Flags: bit 30 in shared memory, bit 31 outside the array

define internal void @emu.event(ptr %listener, i64 %value, i32 %site, i32 %thread) alwaysinline {
  %next.p = getelementptr %Listener, ptr %listener, i32 0, i32 1
  %e = load ptr, ptr %next.p
  %site64 = zext i32 %site to i64
  %thread64 = zext i32 %thread to i64
  %thread.high = shl i64 %thread64, 32
  %what = or i64 %thread.high, %site64
  store i64 %value, ptr %e
  %what.p = getelementptr i64, ptr %e, i64 1
  store i64 %what, ptr %what.p
  %next = getelementptr i64, ptr %e, i64 2
  store ptr %next, ptr %next.p
  %end.p = getelementptr %Listener, ptr %listener, i32 0, i32 2
  %end = load ptr, ptr %end.p
  %is.full = icmp eq ptr %next, %end
  br i1 %is.full, label %full, label %out
full:
  call void @emu.full(ptr %listener)
  br label %out
out:
  ret void
}
define internal void @emu.full(ptr %listener) noinline cold {
  %full.p = getelementptr %Listener, ptr %listener, i32 0, i32 3
  %f = load ptr, ptr %full.p
  call void %f()
  %events = load ptr, ptr %listener
  %next.p = getelementptr %Listener, ptr %listener, i32 0, i32 1
  store ptr %events, ptr %next.p
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
