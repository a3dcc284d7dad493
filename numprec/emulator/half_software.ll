; Conversions of float16 where the processor has none.

; a half's exponent and fraction, shifted into place, are a float 2^112 times too small; the product is exact
define internal float @emu.half.to_f32(i16 %x) alwaysinline {
  %w = zext i16 %x to i32
  %sign0 = and i32 %w, 32768
  %sign = shl i32 %sign0, 16
  %magnitude = and i32 %w, 32767
  %shifted = shl i32 %magnitude, 13
  %small = bitcast i32 %shifted to float
  %scaled = fmul float %small, 0x46F0000000000000
  %finite = bitcast float %scaled to i32
  %special = or i32 %shifted, 2139095040
  %is.special = icmp uge i32 %magnitude, 31744
  %m = select i1 %is.special, i32 %special, i32 %finite
  %b = or i32 %m, %sign
  %f = bitcast i32 %b to float
  ret float %f
}
; normal results: add half an ulp (ties to even) to the bits; subnormal ones: let the adder align and round
define internal i16 @emu.half.from_f32(float %x) alwaysinline {
  %b = bitcast float %x to i32
  %sign0 = lshr i32 %b, 16
  %sign = and i32 %sign0, 32768
  %m = and i32 %b, 2147483647
  %odd0 = lshr i32 %m, 13
  %odd = and i32 %odd0, 1
  %n0 = add i32 %m, -939520001
  %n1 = add i32 %n0, %odd
  %normal = lshr i32 %n1, 13
  %mf = bitcast i32 %m to float
  %aligned = fadd float %mf, 5.000000e-01
  %aligned.bits = bitcast float %aligned to i32
  %subnormal = add i32 %aligned.bits, -1056964608
  %is.subnormal = icmp ult i32 %m, 947912704
  %r0 = select i1 %is.subnormal, i32 %subnormal, i32 %normal
  %is.big = icmp uge i32 %m, 1199570944
  %r1 = select i1 %is.big, i32 31744, i32 %r0
  %r2 = or i32 %r1, %sign
  %is.nan = icmp ugt i32 %m, 2139095040
  %r3 = select i1 %is.nan, i32 32767, i32 %r2
  %r = trunc i32 %r3 to i16
  ret i16 %r
}
define internal i16 @emu.half.from_f32.exact(float %f) alwaysinline {
  %r = call i16 @emu.half.from_f32(float %f)
  ret i16 %r
}
