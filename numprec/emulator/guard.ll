; Linux: code that reaches for memory which is not there ends its launch, not the process.
;
; A launch notes on its stack where it began, for the thread that runs it. The handler of SIGSEGV and SIGBUS returns to
; that place when the fault is one of this thread while it runs emulated code; any other fault goes to the handler that
; was there before. This is the way of setjmp and longjmp, which C allows from the handler of a synchronous signal. The
; handler leaves the signal mask alone (SA_NODEFER), so there is no mask to restore.
;
; A launch that may not ask whether to go on is knocked at by another signal, see interrupts.py. Its handler asks in the
; kernel's place, and leaves by the same way if the launch is to end.

declare i32 @_setjmp(ptr) returns_twice
declare void @longjmp(ptr, i32) noreturn
declare ptr @pthread_getspecific(i32)
declare i32 @pthread_setspecific(i32, ptr)
declare i32 @sigaction(i32, ptr, ptr)
declare i32 @raise(i32)

@emu_key = global i32 0                          ; of the thread's %Place
@emu_before = global [2 x [256 x i8]] zeroinitializer, align 16      ; struct sigaction of SIGSEGV, SIGBUS
@emu_code = global ptr null                     ; where code may be that runs guarded: pairs of addresses, then 0
%Place = type { i64, ptr, [126 x i64] }          ; address of the fault, launch, jmp_buf and room to spare

define internal i32 @emu.guarded(ptr %function, ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode) noinline {
entry:
  %place = alloca %Place, align 16
  %key = load i32, ptr @emu_key
  %outer = call ptr @pthread_getspecific(i32 %key)
  %buffer = getelementptr %Place, ptr %place, i32 0, i32 2
  %launch.p = getelementptr %Place, ptr %place, i32 0, i32 1
  store ptr %launch, ptr %launch.p
  %again = call i32 @_setjmp(ptr %buffer) returns_twice
  switch i32 %again, label %run [ i32 1, label %fault  i32 2, label %stopped ]
run:
  call i32 @pthread_setspecific(i32 %key, ptr %place)
  %status = call i32 %function(ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode)
  call i32 @pthread_setspecific(i32 %key, ptr %outer)
  ret i32 %status
fault:
  %error.p = getelementptr %Launch, ptr %launch, i32 0, i32 18
  %noted = cmpxchg ptr %error.p, i32 0, i32 4 monotonic monotonic
  %mine = extractvalue { i32, i1 } %noted, 1
  br i1 %mine, label %note, label %out
note:
  %address = load i64, ptr %place
  %address.p = getelementptr %Launch, ptr %launch, i32 0, i32 19
  store i64 %address, ptr %address.p
  br label %out
out:
  call i32 @pthread_setspecific(i32 %key, ptr %outer)
  ret i32 4
stopped:
  call i32 @pthread_setspecific(i32 %key, ptr %outer)
  ret i32 0
}

; while Python code runs, a fault is not the kernel's
define internal ptr @emu.unguard() {
  %key = load i32, ptr @emu_key
  %place = call ptr @pthread_getspecific(i32 %key)
  call i32 @pthread_setspecific(i32 %key, ptr null)
  ret ptr %place
}
define internal void @emu.guard(ptr %place) {
  %key = load i32, ptr @emu_key
  call i32 @pthread_setspecific(i32 %key, ptr %place)
  ret void
}

; siginfo_t of Linux: si_code at byte 8, positive when the kernel sent the signal; si_addr at byte 16
define void @emu_fault(i32 %signal, ptr %info, ptr %context) {
entry:
  %code.p = getelementptr i8, ptr %info, i64 8
  %code = load i32, ptr %code.p
  %sent = icmp sgt i32 %code, 0
  %place = call ptr @emu.unguard()
  %inside = icmp ne ptr %place, null
  %ours = and i1 %sent, %inside
  br i1 %ours, label %leave, label %pass
leave:
  %address.p = getelementptr i8, ptr %info, i64 16
  %address = load i64, ptr %address.p
  store i64 %address, ptr %place
  %buffer = getelementptr %Place, ptr %place, i32 0, i32 2
  call void @longjmp(ptr %buffer, i32 1)
  unreachable
pass:
  %is.segv = icmp eq i32 %signal, 11
  %row = select i1 %is.segv, i64 0, i64 1
  %before = getelementptr [2 x [256 x i8]], ptr @emu_before, i64 0, i64 %row
  call i32 @sigaction(i32 %signal, ptr %before, ptr null)
  call i32 @raise(i32 %signal)
  ret void
}

; This handler may only leave code that holds nothing: neither a lock, as an allocation does, nor a rounding mode, as
; functions of libm do. That is the code of kernels and of the scheduler, and there it may call Python, too. It asks if
; the thread was in such code, whose address in ucontext_t of Linux on x86-64 is at byte 168, and does nothing otherwise.
define void @emu_knock(i32 %signal, ptr %info, ptr %context) {
entry:
  %key = load i32, ptr @emu_key
  %place = call ptr @pthread_getspecific(i32 %key)
  %outside = icmp eq ptr %place, null
  br i1 %outside, label %out, label %inside
inside:
  %at.p = getelementptr i8, ptr %context, i64 168
  %at = load i64, ptr %at.p
  %ranges = load atomic ptr, ptr @emu_code acquire, align 8
  br label %look
look:
  %range = phi ptr [ %ranges, %inside ], [ %range.next, %compare ]
  %low = load i64, ptr %range
  %none = icmp eq i64 %low, 0
  br i1 %none, label %out, label %compare
compare:
  %high.p = getelementptr i64, ptr %range, i64 1
  %high = load i64, ptr %high.p
  %range.next = getelementptr i64, ptr %range, i64 2
  %from = icmp uge i64 %at, %low
  %to = icmp ult i64 %at, %high
  %within = and i1 %from, %to
  br i1 %within, label %ask, label %look
ask:
  %launch.p = getelementptr %Place, ptr %place, i32 0, i32 1
  %launch = load ptr, ptr %launch.p
  %asked.p = getelementptr %Launch, ptr %launch, i32 0, i32 25
  store volatile i32 1, ptr %asked.p
  %stop = call i1 @emu_ask(ptr %launch)
  br i1 %stop, label %leave, label %out
leave:
  call ptr @emu.unguard()
  %buffer = getelementptr %Place, ptr %place, i32 0, i32 2
  call void @longjmp(ptr %buffer, i32 2)
  unreachable
out:
  ret void
}
