; Conversions of float16 where the processor has them (F16C, Arm).

define internal float @emu.half.to_f32(i16 %x) alwaysinline {
  %h = bitcast i16 %x to half
  %f = fpext half %h to float
  ret float %f
}
; The float is first rounded to odd at 22 bits, which cannot change a rounding to 11 bits [3]. Without this, LLVM would
; see "extend, add, round" and turn it into half arithmetic of its own.
define internal i16 @emu.half.from_f32(float %x) alwaysinline {
  %b = bitcast float %x to i32
  %cut = and i32 %b, 3
  %inexact = icmp ne i32 %cut, 0
  %sticky = select i1 %inexact, i32 4, i32 0
  %kept = and i32 %b, -4
  %odd = or i32 %kept, %sticky
  %is.nan = fcmp uno float %x, %x
  %canonical = select i1 %is.nan, i32 2147483647, i32 %odd
  %f = bitcast i32 %canonical to float
  %h = fptrunc float %f to half
  %r = bitcast half %h to i16
  ret i16 %r
}
; a float that comes out of @emu.odd is not an extended half: it needs no protection from LLVM's narrowing
define internal i16 @emu.half.from_f32.exact(float %f) alwaysinline {
  %is.nan = fcmp uno float %f, %f
  %canonical = select i1 %is.nan, float 0x7FFFFFFFE0000000, float %f
  %h = fptrunc float %canonical to half
  %r = bitcast half %h to i16
  ret i16 %r
}
