"""Writes to stdout what `fakecuda.c` includes: names of errors, stubs for the functions of the driver that it lacks,
and cuGetProcAddress, which cuda-bindings asks for each function.

    generate.py CUDA_H DRIVER_LINUX_PYX FAKECUDA_C
"""
import re
import sys

PROC_ADDRESS = "cuGetProcAddress", "cuGetProcAddress_v2"
STUB = """\
#undef {name}
EXPORT int stub_{name}(void) {{
    static int c = -1;
    if (c < 0) c = counter("{name} (missing)");
    counters[c].count++;
    return fail("{name}", CUDA_ERROR_NOT_SUPPORTED, "the stand-in lacks it");
}}"""
LOOKUP = """
#undef cuGetProcAddress
EXPORT R cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status) {
    int best = -1;
    *out = 0;
    if (!strcmp(name, "cuGetProcAddress")) {
        *out = (void *)cuGetProcAddress_v2;
        if (status) *status = CU_GET_PROC_ADDRESS_SUCCESS;
        return 0;
    }
    for (int i = 0; i < (int)(sizeof procs / sizeof *procs); i++)
        if (!strcmp(procs[i].name, name) && procs[i].version <= version
            && (best < 0 || procs[i].version > procs[best].version))
            best = i;
    if (best < 0) {
        say("cuGetProcAddress %s %d: not found", name, version);
        if (status) *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
        return status ? 0 : CUDA_ERROR_NOT_FOUND;
    }
    *out = procs[best].function;
    if (status) *status = CU_GET_PROC_ADDRESS_SUCCESS;
    return 0;
}
EXPORT R cuGetProcAddress(const char *name, void **out, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, out, version, flags, 0);
}"""


def main(header, bindings, source):
    header, bindings, source = (open(path, encoding="utf-8").read() for path in (header, bindings, source))
    print("#undef cuGetErrorName\n#undef cuGetErrorString")
    print("R cuGetErrorName(R e, const char **s) {\n    switch ((int)e) {")
    for name, value in re.findall(r"^\s+(CUDA_(?:SUCCESS|ERROR_\w+))\s*=\s*(\d+)", header, re.M):
        print(f'    case {value}: *s = "{name}"; return 0;')
    print("    }\n    *s = 0;\n    return CUDA_ERROR_INVALID_VALUE;\n}")
    print("R cuGetErrorString(R e, const char **s) { return cuGetErrorName(e, s); }")

    # (the driver's name, the binding's variable, the oldest CUDA that has this form of it)
    wanted = re.findall(
        r"cuGetProcAddress_v2\('(\w+)', <void \*\*>&__(\w+), (?:7000 if \w+ == \w+ else )?(\d+)", bindings)
    defined = {*re.findall(r"^R (cu[A-Z]\w*)\(", source, re.M), "cuGetErrorName", "cuGetErrorString", *PROC_ADDRESS}
    renamed = dict(re.findall(r"^\s*#define\s+(cu\w+)\s+(?:__CUDA_API_PT\w+\()?(cu\w+?)\)?\s*$", header, re.M))
    undefined = set(re.findall(r"^#undef (cu\w+)", source, re.M))
    stubs = sorted({variable for _, variable, _ in wanted}
                   - {name if name in undefined else renamed.get(name, name) for name in defined})
    for name in stubs:
        print(STUB.format(name=name))
    print("static const struct { const char *name; int version; void *function; } procs[] = {")
    for symbol, variable, version in wanted:
        if variable not in PROC_ADDRESS:
            print(f'    {{"{symbol}", {version}, (void *)({"stub_" * (variable in stubs)}{variable})}},')
    print("};" + LOOKUP)


if __name__ == "__main__":
    main(*sys.argv[1:])
