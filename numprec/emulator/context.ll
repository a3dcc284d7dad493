; What a kernel asks of the thread that runs it, and the operations that make it wait. These are inlined into the
; coroutine of the kernel, where %t is the Thread record; the layouts are those of scheduler.ll.

%Launch = type { ptr, ptr, ptr, i64, i64, i64, ptr, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i64, i32, i32, i32, i32, i32, i32, ptr, i32, ptr }
; 0 args, 1 warp_order, 2 thread_order, 3 orders, 4 blocks, 5 next, 6 block_order,
; 7 8 9 nctaid, 10 11 12 ntid, 13 threads, 14 warps, 15 shared_bytes, 16 dynamic_bytes, 17 stride,
; 18 error, 19 error_block, 20 at_barrier, 21 at_grid, 22 in_warp, 23 exited, 24 ask, 25 unused, 26 coroutine,
; 27 uses_warps, 28 listener
%Block = type { ptr, ptr, ptr, ptr, i64, i32, i32, i32, i32, i32, i32, i32 }
; 0 launch, 1 shared, 2 threads, 3 snapshots, 4 index, 5 6 7 ctaid, 8 popc, 9 arrived, 10 phase, 11 state
%Thread = type { ptr, ptr, i64, i32, i32, i32, i32, i32, i32, i32, i32 }
; 0 block, 1 resume, 2 value, 3 op, 4 mask, 5 6 7 tid, 8 linear, 9 participants, 10 ballot


; ---- what a kernel asks its thread record

define internal i32 @emu.ctx.tid.x(ptr %t) alwaysinline {
  %p = getelementptr %Thread, ptr %t, i32 0, i32 5
  %v = load i32, ptr %p, !invariant.load !900
  ret i32 %v
}
define internal i32 @emu.ctx.tid.y(ptr %t) alwaysinline {
  %p = getelementptr %Thread, ptr %t, i32 0, i32 6
  %v = load i32, ptr %p, !invariant.load !900
  ret i32 %v
}
define internal i32 @emu.ctx.tid.z(ptr %t) alwaysinline {
  %p = getelementptr %Thread, ptr %t, i32 0, i32 7
  %v = load i32, ptr %p, !invariant.load !900
  ret i32 %v
}
define internal i32 @emu.ctx.laneid(ptr %t) alwaysinline {
  %p = getelementptr %Thread, ptr %t, i32 0, i32 8
  %v = load i32, ptr %p, !invariant.load !900
  %lane = and i32 %v, 31
  ret i32 %lane
}
define internal i32 @emu.ctx.warpsize(ptr %t) alwaysinline {
  ret i32 32
}
define internal i32 @emu.ctx.lanemask.lt(ptr %t) alwaysinline {
  %lane = call i32 @emu.ctx.laneid(ptr %t)
  %bit = shl i32 1, %lane
  %below = add i32 %bit, -1
  ret i32 %below
}
define internal i32 @emu.block.i32(ptr %t, i64 %offset) alwaysinline {
  %block = load ptr, ptr %t, !invariant.load !900
  %p = getelementptr i8, ptr %block, i64 %offset
  %v = load i32, ptr %p, !invariant.load !900
  ret i32 %v
}
define internal i32 @emu.launch.i32(ptr %t, i32 %offset) alwaysinline {
  %block = load ptr, ptr %t, !invariant.load !900
  %launch = load ptr, ptr %block, !invariant.load !900
  %p = getelementptr i8, ptr %launch, i32 %offset
  %v = load i32, ptr %p, !invariant.load !900
  ret i32 %v
}
define internal i32 @emu.ctx.ctaid.x(ptr %t) alwaysinline {
  %v = call i32 @emu.block.i32(ptr %t, i64 40)
  ret i32 %v
}
define internal i32 @emu.ctx.ctaid.y(ptr %t) alwaysinline {
  %v = call i32 @emu.block.i32(ptr %t, i64 44)
  ret i32 %v
}
define internal i32 @emu.ctx.ctaid.z(ptr %t) alwaysinline {
  %v = call i32 @emu.block.i32(ptr %t, i64 48)
  ret i32 %v
}
define internal i32 @emu.ctx.nctaid.x(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 56)
  ret i32 %v
}
define internal i32 @emu.ctx.nctaid.y(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 60)
  ret i32 %v
}
define internal i32 @emu.ctx.nctaid.z(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 64)
  ret i32 %v
}
define internal i32 @emu.ctx.ntid.x(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 68)
  ret i32 %v
}
define internal i32 @emu.ctx.ntid.y(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 72)
  ret i32 %v
}
define internal i32 @emu.ctx.ntid.z(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 76)
  ret i32 %v
}
define internal i32 @emu.ctx.dynamic_smem_size(ptr %t) alwaysinline {
  %v = call i32 @emu.launch.i32(ptr %t, i32 92)
  ret i32 %v
}
define internal ptr @emu.ctx.shared(ptr %t, i64 %offset) alwaysinline {
  %block = load ptr, ptr %t, !invariant.load !900
  %shared.p = getelementptr %Block, ptr %block, i32 0, i32 1
  %shared = load ptr, ptr %shared.p, !invariant.load !900
  %p = getelementptr inbounds i8, ptr %shared, i64 %offset
  ret ptr %p
}
define internal ptr @emu.ctx.args(ptr %t) alwaysinline {
  %block = load ptr, ptr %t, !invariant.load !900
  %launch = load ptr, ptr %block, !invariant.load !900
  %args = load ptr, ptr %launch, !invariant.load !900
  ret ptr %args
}

; Whether the launch was told to stop. The flag is up now and then; then @numprec_ask finds out.
declare i1 @numprec_ask(ptr) cold
; A kernel compiled with debug=True has ended with a status: from 1 on it is an exception's. The first is noted, as error
; 5, with the index of its block, its code and its thread, and the other threads stop.
define internal void @emu.note.ended(ptr %t, i32 %status) noinline {
  %raised = icmp sge i32 %status, 1
  br i1 %raised, label %tell, label %out
tell:
  %block = load ptr, ptr %t, !invariant.load !900
  %launch = load ptr, ptr %block, !invariant.load !900
  %error.p = getelementptr %Launch, ptr %launch, i32 0, i32 18
  %first = cmpxchg ptr %error.p, i32 0, i32 5 monotonic monotonic
  %mine = extractvalue { i32, i1 } %first, 1
  br i1 %mine, label %note, label %out
note:
  %index.p = getelementptr %Block, ptr %block, i32 0, i32 4
  %index = load i64, ptr %index.p
  %e0 = getelementptr %Launch, ptr %launch, i32 0, i32 19
  store i64 %index, ptr %e0
  %e1 = getelementptr %Launch, ptr %launch, i32 0, i32 20
  store i32 %status, ptr %e1
  %linear.p = getelementptr %Thread, ptr %t, i32 0, i32 8
  %linear = load i32, ptr %linear.p
  %e2 = getelementptr %Launch, ptr %launch, i32 0, i32 21
  store i32 %linear, ptr %e2
  br label %out
out:
  ret void
}
define internal i1 @emu.stopped(ptr %t) alwaysinline {
entry:
  %block = load ptr, ptr %t, !invariant.load !900
  %launch = load ptr, ptr %block, !invariant.load !900
  %flag.p = getelementptr %Launch, ptr %launch, i32 0, i32 24
  %flag = load volatile i32, ptr %flag.p
  %quiet = icmp eq i32 %flag, 0
  br i1 %quiet, label %out, label %ask, !prof !901
ask:
  %told = call i1 @numprec_ask(ptr %launch)
  br label %out
out:
  %stop = phi i1 [ false, %entry ], [ %told, %ask ]
  ret i1 %stop
}

; ---- operations that wait: `post` notes what the thread brings, the thread suspends, `take` fetches the result

define internal void @emu.wait(ptr %t, i32 %op, i32 %mask, i64 %value) alwaysinline {
  %value.p = getelementptr %Thread, ptr %t, i32 0, i32 2
  store i64 %value, ptr %value.p
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  store i32 %op, ptr %op.p
  %mask.p = getelementptr %Thread, ptr %t, i32 0, i32 4
  store i32 %mask, ptr %mask.p
  ret void
}
define internal void @emu.post.barrier(ptr %t) alwaysinline {
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  store i32 1, ptr %op.p
  ret void
}
define internal void @emu.post.barrier.pred(ptr %t, i32 %pred) alwaysinline {
  %truth = icmp ne i32 %pred, 0
  %one = zext i1 %truth to i64
  call void @emu.wait(ptr %t, i32 1, i32 0, i64 %one)
  ret void
}
define internal i32 @emu.take.barrier.popc(ptr %t) alwaysinline {
  %block = load ptr, ptr %t
  %p = getelementptr %Block, ptr %block, i32 0, i32 8
  %popc = load i32, ptr %p
  ret i32 %popc
}
define internal i32 @emu.take.barrier.and(ptr %t) alwaysinline {
  %block = load ptr, ptr %t
  %p = getelementptr %Block, ptr %block, i32 0, i32 8
  %popc = load i32, ptr %p
  %q = getelementptr %Block, ptr %block, i32 0, i32 9
  %arrived = load i32, ptr %q
  %all = icmp eq i32 %popc, %arrived
  %r = zext i1 %all to i32
  ret i32 %r
}
define internal i32 @emu.take.barrier.or(ptr %t) alwaysinline {
  %popc = call i32 @emu.take.barrier.popc(ptr %t)
  %any = icmp ne i32 %popc, 0
  %r = zext i1 %any to i32
  ret i32 %r
}
define internal void @emu.post.grid(ptr %t) alwaysinline {
  %op.p = getelementptr %Thread, ptr %t, i32 0, i32 3
  store i32 2, ptr %op.p
  ret void
}
define internal void @emu.post.warp(ptr %t, i32 %mask, i64 %value) alwaysinline {
  call void @emu.wait(ptr %t, i32 3, i32 %mask, i64 %value)
  ret void
}
; shfl.sync, PTX ISA section "shfl.sync": which lane is read, and whether it lies within the segment
define internal { i32, i1 } @emu.take.shfl(ptr %t, i32 %mode, i32 %b, i32 %c) alwaysinline {
  %lane = call i32 @emu.ctx.laneid(ptr %t)
  %bval = and i32 %b, 31
  %cval = and i32 %c, 31
  %seg0 = lshr i32 %c, 8
  %seg = and i32 %seg0, 31
  %notseg = xor i32 %seg, 31
  %low = and i32 %lane, %seg
  %c.rest = and i32 %cval, %notseg
  %max = or i32 %low, %c.rest
  %b.rest = and i32 %bval, %notseg
  %j.idx = or i32 %low, %b.rest
  %j.up = sub i32 %lane, %bval
  %j.down = add i32 %lane, %bval
  %j.bfly = xor i32 %lane, %bval
  %is.up = icmp eq i32 %mode, 1
  %is.down = icmp eq i32 %mode, 2
  %is.bfly = icmp eq i32 %mode, 3
  %j1 = select i1 %is.up, i32 %j.up, i32 %j.idx
  %j2 = select i1 %is.down, i32 %j.down, i32 %j1
  %j3 = select i1 %is.bfly, i32 %j.bfly, i32 %j2
  %ge = icmp sge i32 %j3, %max
  %le = icmp sle i32 %j3, %max
  %within = select i1 %is.up, i1 %ge, i1 %le
  %j = select i1 %within, i32 %j3, i32 %lane
  %block = load ptr, ptr %t
  %snap.p = getelementptr %Block, ptr %block, i32 0, i32 3
  %snapshots = load ptr, ptr %snap.p
  %lin.p = getelementptr %Thread, ptr %t, i32 0, i32 8
  %linear = load i32, ptr %lin.p
  %warp.first = and i32 %linear, -32
  %slot = add i32 %warp.first, %j
  %v.p = getelementptr i64, ptr %snapshots, i32 %slot
  %v64 = load i64, ptr %v.p
  %v = trunc i64 %v64 to i32
  %part.p = getelementptr %Thread, ptr %t, i32 0, i32 9
  %participants = load i32, ptr %part.p
  %bit0 = lshr i32 %participants, %j
  %bit = and i32 %bit0, 1
  %there = icmp ne i32 %bit, 0
  ; the value of a lane that takes no part is undefined: all ones, a NaN in every format
  %value = select i1 %there, i32 %v, i32 -1
  %r0 = insertvalue { i32, i1 } undef, i32 %value, 0
  %r1 = insertvalue { i32, i1 } %r0, i1 %within, 1
  ret { i32, i1 } %r1
}
define internal { i32, i1 } @emu.take.vote(ptr %t, i32 %mode) alwaysinline {
  %part.p = getelementptr %Thread, ptr %t, i32 0, i32 9
  %participants = load i32, ptr %part.p
  %ballot.p = getelementptr %Thread, ptr %t, i32 0, i32 10
  %ballot = load i32, ptr %ballot.p
  %all = icmp eq i32 %ballot, %participants
  %any = icmp ne i32 %ballot, 0
  %nobody = icmp eq i32 %ballot, 0
  %uniform = or i1 %all, %nobody
  %is.any = icmp eq i32 %mode, 1
  %is.eq = icmp eq i32 %mode, 2
  %p1 = select i1 %is.any, i1 %any, i1 %all
  %p = select i1 %is.eq, i1 %uniform, i1 %p1
  %r0 = insertvalue { i32, i1 } undef, i32 %ballot, 0
  %r1 = insertvalue { i32, i1 } %r0, i1 %p, 1
  ret { i32, i1 } %r1
}
define internal i32 @emu.take.match.any(ptr %t) noinline {
entry:
  %block = load ptr, ptr %t
  %snap.p = getelementptr %Block, ptr %block, i32 0, i32 3
  %snapshots = load ptr, ptr %snap.p
  %lin.p = getelementptr %Thread, ptr %t, i32 0, i32 8
  %linear = load i32, ptr %lin.p
  %warp.first = and i32 %linear, -32
  %snapshot = getelementptr i64, ptr %snapshots, i32 %warp.first
  %value.p = getelementptr %Thread, ptr %t, i32 0, i32 2
  %mine = load i64, ptr %value.p
  %part.p = getelementptr %Thread, ptr %t, i32 0, i32 9
  %participants = load i32, ptr %part.p
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %i.next, %loop ]
  %m = phi i32 [ 0, %entry ], [ %m.next, %loop ]
  %p = getelementptr i64, ptr %snapshot, i32 %i
  %v = load i64, ptr %p
  %equal = icmp eq i64 %v, %mine
  %bit = shl i32 1, %i
  %set = select i1 %equal, i32 %bit, i32 0
  %m.next = or i32 %m, %set
  %i.next = add i32 %i, 1
  %done = icmp eq i32 %i.next, 32
  br i1 %done, label %out, label %loop
out:
  %r = and i32 %m.next, %participants
  ret i32 %r
}
define internal { i32, i1 } @emu.take.match.all(ptr %t) alwaysinline {
  %m = call i32 @emu.take.match.any(ptr %t)
  %part.p = getelementptr %Thread, ptr %t, i32 0, i32 9
  %participants = load i32, ptr %part.p
  %all = icmp eq i32 %m, %participants
  %mask = select i1 %all, i32 %m, i32 0
  %r0 = insertvalue { i32, i1 } undef, i32 %mask, 0
  %r1 = insertvalue { i32, i1 } %r0, i1 %all, 1
  ret { i32, i1 } %r1
}

!900 = !{}
!901 = !{!"branch_weights", i32 1048575, i32 1}
