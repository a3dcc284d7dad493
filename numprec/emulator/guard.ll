; Linux: code that reaches for memory which is not there ends its launch, not the process.
;
; A launch notes on its stack where it began, for the thread that runs it. The handler of SIGSEGV and SIGBUS returns to
; that place when the fault is one of this thread while it runs emulated code; any other fault goes to the handler that
; was there before. This is the way of setjmp and longjmp, which C allows from the handler of a synchronous signal. The
; handler leaves the signal mask alone (SA_NODEFER), so there is no mask to restore.

declare i32 @_setjmp(ptr) returns_twice
declare void @longjmp(ptr, i32) noreturn
declare ptr @pthread_getspecific(i32)
declare i32 @pthread_setspecific(i32, ptr)
declare i32 @sigaction(i32, ptr, ptr)
declare i32 @raise(i32)

@emu_key = global i32 0                          ; of the thread's %Place
@emu_before = global [2 x [256 x i8]] zeroinitializer, align 16      ; struct sigaction of SIGSEGV, SIGBUS
%Place = type { i64, [126 x i64] }               ; address of the fault, jmp_buf and room to spare

define internal i32 @emu.guarded(ptr %function, ptr %launch, ptr %memory, i64 %bytes, i64 %first, i64 %last, i32 %mode) noinline {
entry:
  %place = alloca %Place, align 16
  %key = load i32, ptr @emu_key
  %outer = call ptr @pthread_getspecific(i32 %key)
  %buffer = getelementptr %Place, ptr %place, i32 0, i32 1
  %again = call i32 @_setjmp(ptr %buffer) returns_twice
  %faulted = icmp ne i32 %again, 0
  br i1 %faulted, label %fault, label %run
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
  %buffer = getelementptr %Place, ptr %place, i32 0, i32 1
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
