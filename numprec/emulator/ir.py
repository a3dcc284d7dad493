"""How functions are written in LLVM's text, and what they say of themselves."""

PURE = "nounwind willreturn memory(none) speculatable"
SUFFIX = {"float": "f32", "double": "f64"}    # of intrinsics


def function(name, ret, args, *body):
    """The text of a function; its arguments, of the types `args`, are %a0, %a1, ..."""
    parameters = ", ".join(f"{t} %a{i}" for i, t in enumerate(args))
    lines = "\n".join("  " + line for line in body)
    return f'define internal {ret} @"{name}"({parameters}) alwaysinline {{\n{lines}\n}}\n'
