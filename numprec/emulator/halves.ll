; Arithmetic in float16 and bfloat16: done in a wider format, and rounded once. [3] is a source of halves.py.

; float64 -> float32 rounded to odd, then to the narrow format to nearest: one rounding in effect [3]
define internal float @emu.odd(double %x) alwaysinline {
  %b = bitcast double %x to i64
  %cut = and i64 %b, 536870911
  %inexact = icmp ne i64 %cut, 0
  %sticky = select i1 %inexact, i64 536870912, i64 0
  %kept = and i64 %b, -536870912
  %odd = or i64 %kept, %sticky
  %d = bitcast i64 %odd to double
  %f = fptrunc double %d to float
  ret float %f
}
define internal i16 @emu.half.from_f64(double %x) alwaysinline {
  %f = call float @emu.odd(double %x)
  %r = call i16 @emu.half.from_f32.exact(float %f)
  ret i16 %r
}
; A double rounded to float16, still as a double. Adding and then subtracting 1.5 * 2^42 times the power of two in x
; leaves 11 digits; below 2^-14 they end where they end there. The wide operations are those above up to this point:
; the same double is rounded, once, and so to the same value.
define internal double @emu.half.round(double %x) alwaysinline {
  %b = bitcast double %x to i64
  %e = and i64 %b, 9218868437227405312
  %power = bitcast i64 %e to double
  %scaled = fmul double %power, 0x4298000000000000
  %small = fcmp olt double %scaled, 0x41B8000000000000
  %m = select i1 %small, double 0x41B8000000000000, double %scaled
  %up = fadd double %x, %m
  %r = fsub double %up, %m
  %a = call double @llvm.fabs.f64(double %x)
  %over = fcmp oge double %a, 6.552000e+04
  %r1 = select i1 %over, double 0x7FF0000000000000, double %r
  %r2 = call double @llvm.copysign.f64(double %r1, double %x)
  ret double %r2
}
declare double @llvm.copysign.f64(double, double)
; Its 16 bits. Clearing bits that are clear keeps LLVM from making one conversion of the two: few hosts have that.
define internal i16 @emu.half.narrow(double %x) alwaysinline {
  %f = fptrunc double %x to float
  %b = bitcast float %f to i32
  %same = and i32 %b, -8192
  %g = bitcast i32 %same to float
  %r = call i16 @emu.half.from_f32.exact(float %g)
  ret i16 %r
}
define internal double @emu.half.fma.wide(double %x, double %y, double %z) alwaysinline {
  %p = fmul double %x, %y
  %s = fadd double %p, %z
  %r = call double @emu.half.round(double %s)
  ret double %r
}
define internal double @emu.half.to_f64(i16 %x) alwaysinline {
  %f = call float @emu.half.to_f32(i16 %x)
  %d = fpext float %f to double
  ret double %d
}
; fma.rn.f16. The product of two halves has 22 bits, exact in a double. The sum may not be: but then the terms lie so
; far apart that the smaller one is less than 2^-31 of the larger. If the larger is c, a half, the sum rounds as "c and
; a little", never onto a tie; the larger cannot be the product, whose exponent is at most 2^32 while c is a multiple
; of 2^-24: below 2^17, where the result is finite, 41 bits hold both exactly.
define internal i16 @emu.half.fma(i16 %a, i16 %b, i16 %c) alwaysinline {
  %x = call double @emu.half.to_f64(i16 %a)
  %y = call double @emu.half.to_f64(i16 %b)
  %z = call double @emu.half.to_f64(i16 %c)
  %p = fmul double %x, %y
  %s = fadd double %p, %z
  %r = call i16 @emu.half.from_f64(double %s)
  ret i16 %r
}
; in bfloat16 the terms may lie further apart than a double can hold: the error of the sum (exact, by TwoSum) says
; whether and to which side it was rounded, and the sum is corrected to odd
define internal i16 @emu.bf16.fma(i16 %a, i16 %b, i16 %c) alwaysinline {
  %x = call double @emu.bf16.to_f64(i16 %a)
  %y = call double @emu.bf16.to_f64(i16 %b)
  %z = call double @emu.bf16.to_f64(i16 %c)
  %p = fmul double %x, %y
  %s = fadd double %p, %z
  %z1 = fsub double %s, %p
  %p1 = fsub double %s, %z1
  %dz = fsub double %z, %z1
  %dp = fsub double %p, %p1
  %e = fadd double %dz, %dp
  %inexact = fcmp one double %e, 0.000000e+00
  %bits = bitcast double %s to i64
  %last = and i64 %bits, 1
  %even = icmp eq i64 %last, 0
  %fix = and i1 %inexact, %even
  %s.negative = fcmp olt double %s, 0.000000e+00
  %e.negative = fcmp olt double %e, 0.000000e+00
  %toward.zero = xor i1 %s.negative, %e.negative
  %step = select i1 %toward.zero, i64 -1, i64 1
  %moved = add i64 %bits, %step
  %odd.bits = select i1 %fix, i64 %moved, i64 %bits
  %odd = bitcast i64 %odd.bits to double
  %r = call i16 @emu.bf16.from_f64(double %odd)
  ret i16 %r
}
define internal float @emu.bf16.to_f32(i16 %x) alwaysinline {
  %w = zext i16 %x to i32
  %b = shl i32 %w, 16
  %f = bitcast i32 %b to float
  ret float %f
}
define internal double @emu.bf16.to_f64(i16 %x) alwaysinline {
  %f = call float @emu.bf16.to_f32(i16 %x)
  %d = fpext float %f to double
  ret double %d
}
define internal i16 @emu.bf16.from_f32(float %x) alwaysinline {
  %b = bitcast float %x to i32
  %up = lshr i32 %b, 16
  %odd = and i32 %up, 1
  %half = add i32 %odd, 32767
  %sum = add i32 %b, %half
  %rounded = lshr i32 %sum, 16
  %is.nan = fcmp uno float %x, %x
  %r32 = select i1 %is.nan, i32 32767, i32 %rounded
  %r = trunc i32 %r32 to i16
  ret i16 %r
}
; as from_f64 for half; where the float is subnormal, its own rounding to odd is not exact, but bfloat16 keeps the same
; exponents, so the sticky bit is taken over by hand
define internal i16 @emu.bf16.from_f64(double %x) alwaysinline {
  %f = fptrunc double %x to float
  %back = fpext float %f to double
  %b = bitcast float %f to i32
  %inexact = fcmp one double %back, %x
  %fa = call double @llvm.fabs.f64(double %back)
  %xa = call double @llvm.fabs.f64(double %x)
  %over = fcmp ogt double %fa, %xa
  %infinite = fcmp oeq double %fa, 0x7FF0000000000000
  %finite = xor i1 %infinite, true
  %fix0 = and i1 %inexact, %finite
  %back.one = and i1 %fix0, %over
  %one = zext i1 %back.one to i32
  %toward = sub i32 %b, %one
  %sticky = zext i1 %fix0 to i32
  %odd.bits = or i32 %toward, %sticky
  %odd = bitcast i32 %odd.bits to float
  %r = call i16 @emu.bf16.from_f32(float %odd)
  ret i16 %r
}
declare double @llvm.fabs.f64(double)
define internal i16 @emu.half.neg(i16 %a) alwaysinline {
  %r = xor i16 %a, -32768
  ret i16 %r
}
define internal i16 @emu.bf16.neg(i16 %a) alwaysinline {
  %r = xor i16 %a, -32768
  ret i16 %r
}
define internal i32 @emu.half2.fma(i32 %a, i32 %b, i32 %c) alwaysinline {
  %a0 = trunc i32 %a to i16
  %b0 = trunc i32 %b to i16
  %c0 = trunc i32 %c to i16
  %r0 = call i16 @emu.half.fma(i16 %a0, i16 %b0, i16 %c0)
  %as = lshr i32 %a, 16
  %bs = lshr i32 %b, 16
  %cs = lshr i32 %c, 16
  %a1 = trunc i32 %as to i16
  %b1 = trunc i32 %bs to i16
  %c1 = trunc i32 %cs to i16
  %r1 = call i16 @emu.half.fma(i16 %a1, i16 %b1, i16 %c1)
  %w0 = zext i16 %r0 to i32
  %w1 = zext i16 %r1 to i32
  %h1 = shl i32 %w1, 16
  %r = or i32 %h1, %w0
  ret i32 %r
}
