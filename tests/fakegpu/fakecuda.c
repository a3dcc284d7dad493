/* A stand-in for libcuda.so.1: memory of the host, kernels run by a callback, rules as strict as a driver's.
 * See README.md. Built by run.py against the cuda.h of the cu12 wheels. */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/file.h>

typedef CUresult R;
#define EXPORT __attribute__((visibility("default")))

/* ------------------------------------------------------------------ log and counters */

#define MAXNAMES 1024
static struct { const char *name; _Atomic long count; } counters[MAXNAMES];
static _Atomic int ncounters;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *logfile;
static int verbose;
EXPORT _Atomic long fakegpu_bytes_h2d, fakegpu_bytes_d2h, fakegpu_bytes_d2d, fakegpu_kernels, fakegpu_graph_kernels;
EXPORT _Atomic long fakegpu_used, fakegpu_peak, fakegpu_live, fakegpu_violations;

static int counter(const char *name) {
    pthread_mutex_lock(&lock);
    int i;
    for (i = 0; i < ncounters; i++) if (!strcmp(counters[i].name, name)) break;
    if (i == ncounters && i < MAXNAMES) { counters[i].name = strdup(name); ncounters++; }
    pthread_mutex_unlock(&lock);
    return i;
}
EXPORT int fakegpu_counters(const char **names, long *counts, int most) {
    int n = ncounters < most ? ncounters : most;
    for (int i = 0; i < n; i++) { names[i] = counters[i].name; counts[i] = counters[i].count; }
    return n;
}
EXPORT void fakegpu_reset(void) {
    for (int i = 0; i < ncounters; i++) counters[i].count = 0;
    fakegpu_bytes_h2d = fakegpu_bytes_d2h = fakegpu_bytes_d2d = fakegpu_kernels = fakegpu_graph_kernels = 0;
    fakegpu_peak = (long)fakegpu_used;
}
static void say(const char *format, ...) {
    if (!logfile) return;
    va_list a; va_start(a, format);
    flockfile(logfile);
    fprintf(logfile, "[%d] ", getpid());
    vfprintf(logfile, format, a); fputc('\n', logfile); fflush(logfile);
    funlockfile(logfile);
    va_end(a);
}
/* A broken rule that a real driver need not notice: said on stderr in any case. */
static void violation(const char *format, ...) {
    va_list a; va_start(a, format);
    fakegpu_violations++;
    fprintf(stderr, "FAKEGPU VIOLATION: "); vfprintf(stderr, format, a); fputc('\n', stderr);
    va_end(a);
    if (getenv("FAKEGPU_ABORT")) abort();
}
static R fail(const char *api, R code, const char *format, ...) {
    char text[512]; va_list a; va_start(a, format); vsnprintf(text, sizeof text, format, a); va_end(a);
    const char *name = 0; cuGetErrorName(code, &name);
    say("%s -> %d %s: %s", api, code, name ? name : "?", text);
    if (verbose) fprintf(stderr, "FAKEGPU %s -> %d %s: %s\n", api, code, name ? name : "?", text);
    return code;
}

static pid_t init_pid;
static R sticky;
#define ENTER(api) \
    static const char *const api_name = #api; static int api_counter = -1; \
    if (api_counter < 0) api_counter = counter(#api); \
    counters[api_counter].count++;
#define FAIL(code, ...) return fail(api_name, code, __VA_ARGS__)
#define NEED_INIT \
    if (!init_pid) FAIL(CUDA_ERROR_NOT_INITIALIZED, "no cuInit"); \
    if (init_pid != getpid()) FAIL(CUDA_ERROR_NOT_INITIALIZED, "forked after cuInit"); \
    if (sticky) FAIL(sticky, "sticky error of an earlier launch");
#define NEED_CONTEXT \
    NEED_INIT; if (!current()) FAIL(CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread");

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }

/* ------------------------------------------------------------------ handles */

enum { T_CTX = 1, T_STREAM, T_EVENT, T_LIB, T_KERNEL, T_GRAPH, T_EXEC, T_NODE, T_USEROBJ, T_POOL, T_LINK };
typedef struct { int type, alive; } Head;
#define TABLE (1 << 20)
static Head *table[TABLE];
static void enter(void *handle, int type) {
    Head *h = handle; h->type = type; h->alive = 1;
    pthread_mutex_lock(&lock);
    size_t i = ((uintptr_t)handle >> 4) % TABLE;
    while (table[i]) i = (i + 1) % TABLE;
    table[i] = h;
    pthread_mutex_unlock(&lock);
}
static int is(const void *handle, int type) {
    if (!handle) return 0;
    size_t i = ((uintptr_t)handle >> 4) % TABLE;
    while (table[i]) { if (table[i] == handle) return table[i]->type == type && table[i]->alive; i = (i + 1) % TABLE; }
    return 0;
}
static void *make(size_t size, int type) { void *p = calloc(1, size); enter(p, type); return p; }

EXPORT int fakegpu_alive(int type) {
    int n = 0;
    for (size_t i = 0; i < TABLE; i++) if (table[i] && table[i]->type == type && table[i]->alive) n++;
    return n;
}

/* ------------------------------------------------------------------ devices */

typedef struct {
    const char *name; int cc_major, cc_minor, sms, threads_per_sm, blocks_per_sm, shared_per_sm, optin; size_t memory;
    int clock_khz, memory_clock_khz, bus, l2; int concurrent_managed;
} Card;
static const Card cards[] = {
    {"Tesla T4", 7, 5, 40, 1024, 16, 65536, 65536, 15655829504UL, 1590000, 5001000, 256, 4194304, 1},
    {"NVIDIA H100 80GB HBM3", 9, 0, 132, 2048, 32, 233472, 232448, 84942979072UL, 1980000, 2619000, 5120, 52428800, 1},
    {"NVIDIA A100-SXM4-40GB", 8, 0, 108, 2048, 32, 167936, 166912, 42298834944UL, 1410000, 1215000, 5120, 41943040, 1},
    {"GeForce GTX 1080", 6, 1, 20, 2048, 32, 98304, 49152, 8513978368UL, 1733000, 5005000, 256, 2097152, 1},
};
static const Card *card = &cards[0];
static int physical = 1, visible_count, visible[16];
static size_t total_memory;

typedef struct Context { Head h; int device, refs; } Context;
static Context *primary[16];
static __thread Context *stack[64];
static __thread int depth;
static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

static void uuid_of(int i, char *bytes) {
    memset(bytes, 0, 16); memcpy(bytes, "\xfa\xce\x00\x75\x12\x34\x43\x21\xab\xcd\x00\x00\x00\x00\x00", 15); bytes[15] = (char)(i + 1);
}
EXPORT void fakegpu_configure(void) {
    const char *v;
    if ((v = getenv("FAKEGPU_CC"))) {
        int major = atoi(v), minor = strchr(v, '.') ? atoi(strchr(v, '.') + 1) : 0;
        for (unsigned i = 0; i < sizeof cards / sizeof *cards; i++)
            if (cards[i].cc_major == major && cards[i].cc_minor == minor) card = &cards[i];
    }
    total_memory = card->memory;
    if ((v = getenv("FAKEGPU_MEMORY"))) total_memory = strtoull(v, 0, 0);
    if ((v = getenv("FAKEGPU_DEVICES"))) physical = atoi(v);
    if (physical > 16) physical = 16;
    verbose = getenv("FAKEGPU_VERBOSE") != NULL;
    if ((v = getenv("FAKEGPU_LOG")) && !logfile) logfile = fopen(v, "a");
    visible_count = 0;
    v = getenv("CUDA_VISIBLE_DEVICES");
    if (!v) { for (int i = 0; i < physical; i++) visible[visible_count++] = i; return; }
    char *copy = strdup(v), *save = 0;
    for (char *t = strtok_r(copy, ",", &save); t; t = strtok_r(0, ",", &save)) {
        while (*t == ' ') t++;
        int found = -1;
        if (!strncmp(t, "GPU-", 4)) {
            for (int i = 0; i < physical; i++) {
                char b[16], text[64]; uuid_of(i, b);
                unsigned char *u = (unsigned char *)b;
                snprintf(text, sizeof text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
                         u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
                if (!strncmp(text, t, strlen(t))) found = i;
            }
        } else { char *end; long n = strtol(t, &end, 10); if (end != t && n >= 0 && n < physical) found = (int)n; }
        if (found < 0) break;                       /* what follows an invalid name is invisible */
        visible[visible_count++] = found;
    }
    free(copy);
}

R cuInit(unsigned flags) {
    ENTER(cuInit);
    if (init_pid && init_pid != getpid()) FAIL(CUDA_ERROR_NOT_INITIALIZED, "forked after cuInit");
    if (!init_pid) fakegpu_configure();
    if (!visible_count) FAIL(CUDA_ERROR_NO_DEVICE, "no device is visible");
    init_pid = getpid();
    return 0;
}
R cuDriverGetVersion(int *v) { ENTER(cuDriverGetVersion); *v = getenv("FAKEGPU_DRIVER") ? atoi(getenv("FAKEGPU_DRIVER")) : 12090; return 0; }
R cuDeviceGetCount(int *n) { ENTER(cuDeviceGetCount); NEED_INIT; *n = visible_count; return 0; }
R cuDeviceGet(CUdevice *d, int i) { ENTER(cuDeviceGet); NEED_INIT; if (i < 0 || i >= visible_count) FAIL(CUDA_ERROR_INVALID_DEVICE, "%d", i); *d = i; return 0; }
#define NEED_DEVICE(d) NEED_INIT; if ((d) < 0 || (d) >= visible_count) FAIL(CUDA_ERROR_INVALID_DEVICE, "device %d", d)
R cuDeviceGetName(char *name, int len, CUdevice d) { ENTER(cuDeviceGetName); NEED_DEVICE(d); snprintf(name, len, "%s", card->name); return 0; }
#undef cuDeviceGetUuid
R cuDeviceGetUuid(CUuuid *u, CUdevice d) { ENTER(cuDeviceGetUuid); NEED_DEVICE(d); uuid_of(visible[d], u->bytes); return 0; }
R cuDeviceGetUuid_v2(CUuuid *u, CUdevice d) { ENTER(cuDeviceGetUuid_v2); NEED_DEVICE(d); uuid_of(visible[d], u->bytes); return 0; }
R cuDeviceGetLuid(char *luid, unsigned *mask, CUdevice d) { ENTER(cuDeviceGetLuid); FAIL(CUDA_ERROR_NOT_SUPPORTED, "Windows"); }
R cuDeviceTotalMem(size_t *n, CUdevice d) { ENTER(cuDeviceTotalMem); NEED_DEVICE(d); *n = total_memory; return 0; }
R cuDeviceComputeCapability(int *a, int *b, CUdevice d) { ENTER(cuDeviceComputeCapability); NEED_DEVICE(d); *a = card->cc_major; *b = card->cc_minor; return 0; }
R cuDeviceGetPCIBusId(char *s, int n, CUdevice d) { ENTER(cuDeviceGetPCIBusId); NEED_DEVICE(d); snprintf(s, n, "0000:%02X:00.0", 4 + visible[d]); return 0; }

R cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
    ENTER(cuDeviceGetAttribute); NEED_DEVICE(d);
    switch ((int)a) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *v = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *v = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *v = 64; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *v = 0x7fffffff; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *v = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *v = 49152; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = card->optin; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *v = card->shared_per_sm; break;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: *v = 65536; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *v = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: *v = 65536; break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *v = card->clock_khz; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *v = card->memory_clock_khz; break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *v = card->bus; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *v = card->l2; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = card->sms; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *v = card->threads_per_sm; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: *v = card->blocks_per_sm; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = card->cc_major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = card->cc_minor; break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: *v = 4 + visible[d]; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE: *v = getenv("FAKEGPU_EXCLUSIVE") ? 3 : 0; break;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID: case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID: *v = 0; break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: *v = 3; break;
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS: case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP: case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED: case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY: case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS: case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: case CU_DEVICE_ATTRIBUTE_ECC_ENABLED: *v = 1; break;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: *v = card->cc_major >= 8 ? 1024 : 0; break;
    default: *v = 0; say("cuDeviceGetAttribute %d: answered 0", a);
    }
    return 0;
}
R cuDeviceCanAccessPeer(int *v, CUdevice a, CUdevice b) { ENTER(cuDeviceCanAccessPeer); NEED_DEVICE(a); NEED_DEVICE(b); *v = a != b; return 0; }
R cuDeviceGetP2PAttribute(int *v, CUdevice_P2PAttribute what, CUdevice a, CUdevice b) { ENTER(cuDeviceGetP2PAttribute); *v = 1; return 0; }

/* ------------------------------------------------------------------ contexts */

R cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
    ENTER(cuDevicePrimaryCtxRetain); NEED_DEVICE(d);
    if (!primary[d] && getenv("FAKEGPU_EXCLUSIVE")) {      /* compute mode EXCLUSIVE_PROCESS */
        char path[512]; const char *tmp = getenv("TMPDIR"); snprintf(path, sizeof path, "%s/fakegpu.exclusive.%d", tmp ? tmp : P_tmpdir, visible[d]);
        int file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        if (flock(file, LOCK_EX | LOCK_NB)) { close(file); FAIL(CUDA_ERROR_DEVICE_UNAVAILABLE, "another process has the device"); }
    }
    if (!primary[d]) { primary[d] = make(sizeof(Context), T_CTX); primary[d]->device = d; }
    primary[d]->refs++;
    *c = (CUcontext)primary[d];
    return 0;
}
R cuDevicePrimaryCtxRelease(CUdevice d) {
    ENTER(cuDevicePrimaryCtxRelease); NEED_DEVICE(d);
    if (!primary[d] || !primary[d]->refs) FAIL(CUDA_ERROR_INVALID_CONTEXT, "not retained");
    if (--primary[d]->refs == 0) { primary[d]->h.alive = 0; primary[d] = 0; say("primary context of %d destroyed", d); }
    return 0;
}
R cuDevicePrimaryCtxReset(CUdevice d) { ENTER(cuDevicePrimaryCtxReset); NEED_DEVICE(d); return 0; }
R cuDevicePrimaryCtxGetState(CUdevice d, unsigned *flags, int *active) { ENTER(cuDevicePrimaryCtxGetState); NEED_DEVICE(d); *flags = 0; *active = primary[d] != 0; return 0; }
R cuDevicePrimaryCtxSetFlags(CUdevice d, unsigned flags) { ENTER(cuDevicePrimaryCtxSetFlags); NEED_DEVICE(d); return 0; }
R cuCtxGetCurrent(CUcontext *c) { ENTER(cuCtxGetCurrent); NEED_INIT; *c = (CUcontext)current(); return 0; }
R cuCtxSetCurrent(CUcontext c) {
    ENTER(cuCtxSetCurrent); NEED_INIT;
    if (!c) { if (depth) depth--; return 0; }
    if (!is(c, T_CTX)) FAIL(CUDA_ERROR_INVALID_CONTEXT, "%p", c);
    if (!depth) depth = 1;
    stack[depth - 1] = (Context *)c;
    return 0;
}
R cuCtxPushCurrent(CUcontext c) {
    ENTER(cuCtxPushCurrent); NEED_INIT;
    if (!is(c, T_CTX)) FAIL(CUDA_ERROR_INVALID_CONTEXT, "%p", c);
    if (depth == 64) FAIL(CUDA_ERROR_UNKNOWN, "stack of contexts is full: a push without a pop?");
    stack[depth++] = (Context *)c; return 0;
}
R cuCtxPopCurrent(CUcontext *c) { ENTER(cuCtxPopCurrent); NEED_INIT; if (!depth) FAIL(CUDA_ERROR_INVALID_CONTEXT, "empty stack"); depth--; if (c) *c = (CUcontext)stack[depth]; return 0; }
R cuCtxGetDevice(CUdevice *d) { ENTER(cuCtxGetDevice); NEED_CONTEXT; *d = current()->device; return 0; }
R cuCtxGetFlags(unsigned *f) { ENTER(cuCtxGetFlags); NEED_CONTEXT; *f = 0; return 0; }
R cuCtxGetApiVersion(CUcontext c, unsigned *v) { ENTER(cuCtxGetApiVersion); *v = 3020; return 0; }
R cuCtxGetId(CUcontext c, unsigned long long *id) { ENTER(cuCtxGetId); *id = 1 + ((Context *)c)->device; return 0; }
R cuCtxGetStreamPriorityRange(int *least, int *greatest) { ENTER(cuCtxGetStreamPriorityRange); NEED_CONTEXT; *least = 0; *greatest = -5; return 0; }
R cuCtxGetLimit(size_t *v, CUlimit l) { ENTER(cuCtxGetLimit); NEED_CONTEXT; *v = l == CU_LIMIT_STACK_SIZE ? 1024 : 0; return 0; }
R cuCtxSetLimit(CUlimit l, size_t v) { ENTER(cuCtxSetLimit); NEED_CONTEXT; return 0; }
R cuCtxEnablePeerAccess(CUcontext c, unsigned f) { ENTER(cuCtxEnablePeerAccess); NEED_CONTEXT; return 0; }
R cuCtxDisablePeerAccess(CUcontext c) { ENTER(cuCtxDisablePeerAccess); NEED_CONTEXT; return 0; }

/* ------------------------------------------------------------------ streams, capture, events */

typedef struct Graph Graph;
typedef struct Stream { Head h; Context *context; unsigned flags; int priority; Graph *capturing; CUstreamCaptureMode mode; int invalid; pthread_t by; unsigned long long id; } Stream;
typedef struct Event { Head h; Context *context; unsigned flags; int recorded, complete; double at; } Event;
typedef struct Kernel Kernel;
typedef struct Library Library;
typedef struct Node { Head h; int kind; Kernel *kernel; unsigned grid[3], block[3], shared; int cooperative; unsigned char *params; Event *event;
    CUdeviceptr dst, src; const void *host_src; void *host_dst; size_t bytes; unsigned value; unsigned width; CUhostFn fn; void *data; Graph *child;} Node;
enum { N_KERNEL, N_EVENT, N_D2D, N_H2D, N_D2H, N_SET, N_HOST, N_CHILD, N_EMPTY };
struct Graph { Head h; int count, room; Node **nodes; };
typedef struct Exec { Head h; Graph *graph; } Exec;
#define MAXCAPTURE 64
static Stream *captures[MAXCAPTURE];
static int ncaptures;
static __thread CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
static _Atomic unsigned long long capture_ids = 1;

static void invalidate(void) { for (int i = 0; i < ncaptures; i++) captures[i]->invalid = 1; }
/* A potentially unsafe call (allocation, synchronous copy, query...) while streams are being captured. */
static R unsafe(const char *api) {
    for (int i = 0; i < ncaptures; i++) {
        Stream *s = captures[i];
        int mine = pthread_equal(s->by, pthread_self());
        int forbidden = mine ? s->mode != CU_STREAM_CAPTURE_MODE_RELAXED && thread_mode != CU_STREAM_CAPTURE_MODE_RELAXED
                             : s->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (forbidden) { s->invalid = 1; return fail(api, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not allowed while a stream is captured (mode %d)", s->mode); }
    }
    return 0;
}
/* Use of the legacy default stream while a blocking stream is being captured. */
static R legacy(const char *api) {
    for (int i = 0; i < ncaptures; i++)
        if (!(captures[i]->flags & CU_STREAM_NON_BLOCKING)) { captures[i]->invalid = 1; return fail(api, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream depends on a capturing blocking stream"); }
    return 0;
}
#define UNSAFE { R u_ = unsafe(api_name); if (u_) return u_; }
#define LEGACY { R u_ = legacy(api_name); if (u_) return u_; }

static int special(CUstream s) { return (uintptr_t)s <= 2; }
#define NEED_STREAM(s) \
    if (!special(s) && !is(s, T_STREAM)) FAIL(CUDA_ERROR_INVALID_HANDLE, "stream %p is not alive", s); \
    if (!special(s) && ((Stream *)(s))->context != current()) FAIL(CUDA_ERROR_INVALID_HANDLE, "stream of another context");
static Stream *capturing(CUstream s) { return !special(s) && ((Stream *)s)->capturing ? (Stream *)s : NULL; }

static Node *add_node(Graph *g, int kind) {
    Node *n = make(sizeof(Node), T_NODE); n->kind = kind;
    if (g->count == g->room) { g->room = g->room ? 2 * g->room : 16; g->nodes = realloc(g->nodes, g->room * sizeof *g->nodes); }
    g->nodes[g->count++] = n;
    return n;
}

static int pending_events;   /* recorded and not synchronised with */
static void all_complete(void) { pending_events++; }   /* generation counter: see Event.complete */
static int generation(void) { return pending_events; }

R cuStreamCreateWithPriority(CUstream *s, unsigned flags, int priority) {
    ENTER(cuStreamCreateWithPriority); NEED_CONTEXT;
    Stream *x = make(sizeof *x, T_STREAM); x->context = current(); x->flags = flags; x->priority = priority; x->id = 10 + capture_ids++;
    *s = (CUstream)x; return 0;
}
R cuStreamCreate(CUstream *s, unsigned flags) { ENTER(cuStreamCreate); R r = cuStreamCreateWithPriority(s, flags, 0); return r; }
R cuStreamDestroy(CUstream s) {
    ENTER(cuStreamDestroy); NEED_INIT; if (!is(s, T_STREAM)) FAIL(CUDA_ERROR_INVALID_HANDLE, "stream %p destroyed twice?", s);
    Stream *x = (Stream *)s;
    if (x->capturing) violation("stream destroyed while capturing");
    x->h.alive = 0; return 0;
}
R cuStreamGetFlags(CUstream s, unsigned *f) { ENTER(cuStreamGetFlags); NEED_CONTEXT; NEED_STREAM(s); *f = special(s) ? 0 : ((Stream *)s)->flags; return 0; }
R cuStreamGetPriority(CUstream s, int *p) { ENTER(cuStreamGetPriority); NEED_CONTEXT; NEED_STREAM(s); *p = special(s) ? 0 : ((Stream *)s)->priority; return 0; }
R cuStreamGetId(CUstream s, unsigned long long *id) { ENTER(cuStreamGetId); NEED_CONTEXT; NEED_STREAM(s); *id = special(s) ? (uintptr_t)s : ((Stream *)s)->id; return 0; }
R cuStreamGetDevice(CUstream s, CUdevice *d) { ENTER(cuStreamGetDevice); NEED_CONTEXT; NEED_STREAM(s); *d = special(s) ? current()->device : ((Stream *)s)->context->device; return 0; }
#undef cuStreamGetCtx
R cuStreamGetCtx(CUstream s, CUcontext *c) { ENTER(cuStreamGetCtx); NEED_CONTEXT; NEED_STREAM(s); *c = (CUcontext)(special(s) ? current() : ((Stream *)s)->context); return 0; }
R cuStreamGetCtx_v2(CUstream s, CUcontext *c, CUgreenCtx *g) { ENTER(cuStreamGetCtx_v2); NEED_CONTEXT; NEED_STREAM(s); *c = (CUcontext)(special(s) ? current() : ((Stream *)s)->context); if (g) *g = 0; return 0; }
R cuStreamSynchronize(CUstream s) {
    ENTER(cuStreamSynchronize); NEED_CONTEXT; NEED_STREAM(s);
    if (capturing(s)) { ((Stream *)s)->invalid = 1; FAIL(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "of a capturing stream"); }
    if (special(s)) LEGACY;
    UNSAFE; all_complete(); return 0;
}
R cuStreamQuery(CUstream s) { ENTER(cuStreamQuery); NEED_CONTEXT; NEED_STREAM(s); if (capturing(s)) { ((Stream *)s)->invalid = 1; FAIL(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "of a capturing stream"); } all_complete(); return 0; }
R cuCtxSynchronize(void) {
    ENTER(cuCtxSynchronize); NEED_CONTEXT;
    if (ncaptures) { invalidate(); FAIL(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a stream of the context is capturing"); }
    all_complete(); return 0;
}
R cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *m) { ENTER(cuThreadExchangeStreamCaptureMode); CUstreamCaptureMode old = thread_mode; thread_mode = *m; *m = old; return 0; }

R cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode) {
    ENTER(cuStreamBeginCapture); NEED_CONTEXT; NEED_STREAM(s);
    if (special(s)) FAIL(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot be captured");
    Stream *x = (Stream *)s;
    if (x->capturing) FAIL(CUDA_ERROR_ILLEGAL_STATE, "captures already");
    x->capturing = make(sizeof(Graph), T_GRAPH); x->mode = mode; x->invalid = 0; x->by = pthread_self(); x->id = capture_ids++;
    captures[ncaptures++] = x;
    return 0;
}
R cuStreamBeginCaptureToGraph(CUstream s, CUgraph g, const CUgraphNode *deps, const CUgraphEdgeData *data, size_t n, CUstreamCaptureMode mode) {
    ENTER(cuStreamBeginCaptureToGraph); NEED_CONTEXT; NEED_STREAM(s);
    if (special(s)) FAIL(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot be captured");
    if (!is(g, T_GRAPH)) FAIL(CUDA_ERROR_INVALID_VALUE, "graph");
    Stream *x = (Stream *)s;
    if (x->capturing) FAIL(CUDA_ERROR_ILLEGAL_STATE, "captures already");
    x->capturing = (Graph *)g; x->mode = mode; x->invalid = 0; x->by = pthread_self(); x->id = capture_ids++;
    captures[ncaptures++] = x;
    return 0;
}
R cuStreamEndCapture(CUstream s, CUgraph *g) {
    ENTER(cuStreamEndCapture); NEED_CONTEXT; NEED_STREAM(s);
    Stream *x = capturing(s);
    if (!x) FAIL(CUDA_ERROR_ILLEGAL_STATE, "does not capture");
    if (x->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(x->by, pthread_self())) FAIL(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "begun by another thread");
    for (int i = 0; i < ncaptures; i++) if (captures[i] == x) { captures[i] = captures[--ncaptures]; break; }
    *g = (CUgraph)x->capturing; x->capturing = NULL;
    if (x->invalid) { *g = 0; FAIL(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "a call in between was illegal"); }
    return 0;
}
R cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status) {
    ENTER(cuStreamIsCapturing); NEED_CONTEXT; NEED_STREAM(s);
    if (special(s)) LEGACY;
    Stream *x = capturing(s); *status = !x ? CU_STREAM_CAPTURE_STATUS_NONE : x->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE; return 0;
}
#undef cuStreamGetCaptureInfo
#undef cuStreamGetCaptureInfo_v2
static R capture_info(CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *g, const CUgraphNode **deps, size_t *n) {
    static __thread CUgraphNode last;
    Stream *x = capturing(s);
    *status = !x ? CU_STREAM_CAPTURE_STATUS_NONE : x->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (x) {
        if (id) *id = x->id;
        if (g) *g = (CUgraph)x->capturing;
        last = x->capturing->count ? (CUgraphNode)x->capturing->nodes[x->capturing->count - 1] : 0;
        if (deps) *deps = &last;
        if (n) *n = last != 0;
    }
    return 0;
}
R cuStreamGetCaptureInfo_v2(CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *g, const CUgraphNode **deps, size_t *n) {
    ENTER(cuStreamGetCaptureInfo_v2); NEED_CONTEXT; NEED_STREAM(s); return capture_info(s, status, id, g, deps, n); }
R cuStreamGetCaptureInfo_v3(CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *g, const CUgraphNode **deps, const CUgraphEdgeData **edges, size_t *n) {
    ENTER(cuStreamGetCaptureInfo_v3); NEED_CONTEXT; NEED_STREAM(s); if (edges) *edges = 0; return capture_info(s, status, id, g, deps, n); }

R cuEventCreate(CUevent *e, unsigned flags) { ENTER(cuEventCreate); NEED_CONTEXT; Event *x = make(sizeof *x, T_EVENT); x->context = current(); x->flags = flags; *e = (CUevent)x; return 0; }
R cuEventDestroy(CUevent e) { ENTER(cuEventDestroy); NEED_INIT; if (!is(e, T_EVENT)) FAIL(CUDA_ERROR_INVALID_HANDLE, "event %p", e); ((Event *)e)->h.alive = 0; return 0; }
#define NEED_EVENT(e) if (!is(e, T_EVENT)) FAIL(CUDA_ERROR_INVALID_HANDLE, "event %p is not alive", e)
R cuEventRecord(CUevent e, CUstream s) {
    ENTER(cuEventRecord); NEED_CONTEXT; NEED_EVENT(e); NEED_STREAM(s);
    Event *x = (Event *)e;
    if (x->context != current()) FAIL(CUDA_ERROR_INVALID_HANDLE, "event of another context");
    if (special(s)) LEGACY;
    if (capturing(s)) { add_node(((Stream *)s)->capturing, N_EVENT)->event = x; return 0; }
    x->recorded = 1; x->complete = generation(); x->at = now(); return 0;
}
R cuEventRecordWithFlags(CUevent e, CUstream s, unsigned f) { return cuEventRecord(e, s); }
static int done(Event *x) { return !x->recorded || x->complete != generation(); }
R cuEventQuery(CUevent e) { ENTER(cuEventQuery); NEED_CONTEXT; NEED_EVENT(e); UNSAFE; int d = done((Event *)e); all_complete(); if (!d) FAIL(CUDA_ERROR_NOT_READY, "first query"); return 0; }
R cuEventSynchronize(CUevent e) { ENTER(cuEventSynchronize); NEED_CONTEXT; NEED_EVENT(e); UNSAFE; all_complete(); return 0; }
static R elapsed(const char *api_name, float *ms, CUevent a, CUevent b) {
    NEED_CONTEXT; NEED_EVENT(a); NEED_EVENT(b);
    Event *x = (Event *)a, *y = (Event *)b;
    if (!x->recorded || !y->recorded) FAIL(CUDA_ERROR_INVALID_HANDLE, "never recorded");
    if ((x->flags | y->flags) & CU_EVENT_DISABLE_TIMING) FAIL(CUDA_ERROR_INVALID_HANDLE, "no timing");
    if (!done(x) || !done(y)) FAIL(CUDA_ERROR_NOT_READY, "asked for before a synchronisation");
    *ms = (float)(1e3 * (y->at - x->at)); return 0;
}
#undef cuEventElapsedTime
R cuEventElapsedTime(float *ms, CUevent a, CUevent b) { ENTER(cuEventElapsedTime); return elapsed(api_name, ms, a, b); }
R cuEventElapsedTime_v2(float *ms, CUevent a, CUevent b) { ENTER(cuEventElapsedTime_v2); return elapsed(api_name, ms, a, b); }
R cuStreamWaitEvent(CUstream s, CUevent e, unsigned f) { ENTER(cuStreamWaitEvent); NEED_CONTEXT; NEED_STREAM(s); NEED_EVENT(e); if (special(s)) LEGACY; return 0; }
R cuStreamAddCallback(CUstream s, CUstreamCallback f, void *data, unsigned flags) { ENTER(cuStreamAddCallback); NEED_CONTEXT; NEED_STREAM(s); f(s, 0, data); return 0; }
R cuLaunchHostFunc(CUstream s, CUhostFn f, void *data) {
    ENTER(cuLaunchHostFunc); NEED_CONTEXT; NEED_STREAM(s);
    if (capturing(s)) { Node *n = add_node(((Stream *)s)->capturing, N_HOST); n->fn = f; n->data = data; return 0; }
    f(data); return 0; }

/* ------------------------------------------------------------------ memory */

#define ARENA (1UL << 38)
#define GAP 512            /* between allocations: a canary, and the alignment */
#define CANARY 0xC7
typedef struct { uintptr_t at; size_t size, room; int device, managed; } Block;
static Block *blocks; static int nblocks, roomblocks;
static char *arena; static _Atomic uintptr_t top;
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used_by[16];
static int filler = 0xA5;
static int protect_arena;    /* FAKEGPU_PROTECT: device memory is not readable by the host outside kernels and copies */
static _Atomic int openings;

static void protect_(int open) {
    if (!protect_arena) return;
    pthread_mutex_lock(&memory_lock);
    if (open ? openings++ == 0 : --openings == 0) mprotect(arena, (top + 4095) & ~4095UL, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    pthread_mutex_unlock(&memory_lock);
}
EXPORT void fakegpu_open(int open) { protect_(open); }

static void arena_init(void) {
    if (arena) return;
    arena = mmap(0, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) { perror("fakegpu arena"); abort(); }
    top = 4096;
    if (getenv("FAKEGPU_FILL")) filler = (int)strtol(getenv("FAKEGPU_FILL"), 0, 0);
    protect_arena = getenv("FAKEGPU_PROTECT") != NULL;
}
static int find(uintptr_t p) {   /* the block that p lies in, or -1 */
    int lo = 0, hi = nblocks;
    while (lo < hi) { int mid = (lo + hi) / 2; if (blocks[mid].at <= p) lo = mid + 1; else hi = mid; }
    if (!lo) return -1;
    Block *b = &blocks[lo - 1];
    return p < b->at + b->size || (p == b->at && !b->size) ? lo - 1 : -1;
}
EXPORT int fakegpu_inside(uintptr_t p, size_t size) {   /* 1 inside one allocation; 0 not; -1 not device memory at all */
    if (!arena || p < (uintptr_t)arena || p >= (uintptr_t)arena + ARENA) return -1;
    pthread_mutex_lock(&memory_lock);
    int i = find(p), ok = i >= 0 && p + size <= blocks[i].at + blocks[i].size;
    pthread_mutex_unlock(&memory_lock);
    return ok;
}
static size_t charge(size_t size) { return size >= (1 << 20) ? (size + (2 << 20) - 1) & ~((size_t)(2 << 20) - 1) : (size + 511) & ~(size_t)511; }
static size_t in_use(int device) { return (used_by[device] + (2 << 20) - 1) & ~((size_t)(2 << 20) - 1); }
#define RESERVED (268UL << 20)   /* a context's own */

static int check_canary(Block *b, const char *when) {
    unsigned char *p = (unsigned char *)b->at + b->size, *end = (unsigned char *)b->at + b->room;
    for (; p < end; p++) if (*p != CANARY) {
        violation("%s: something wrote %ld bytes past an allocation of %zu bytes", when, (long)(p - (unsigned char *)b->at - b->size), b->size);
        memset(b->at + b->size + (char *)0, CANARY, b->room - b->size);
        return 0;
    }
    return 1;
}
EXPORT int fakegpu_check(void) { int bad = 0; protect_(1); for (int i = 0; i < nblocks; i++) bad += !check_canary(&blocks[i], "check"); protect_(0); return bad; }

static R allocate(const char *api_name, CUdeviceptr *p, size_t size, int managed) {
    NEED_CONTEXT;
    if (!size) FAIL(CUDA_ERROR_INVALID_VALUE, "0 bytes");
    int d = current()->device;
    pthread_mutex_lock(&memory_lock);
    arena_init();
    if (in_use(d) + charge(size) + RESERVED > total_memory) { pthread_mutex_unlock(&memory_lock); FAIL(CUDA_ERROR_OUT_OF_MEMORY, "%zu bytes; %zu in use", size, in_use(d)); }
    size_t room = ((size + 511) & ~(size_t)511) + GAP;
    int place = nblocks; uintptr_t at = 0, from = (uintptr_t)arena + 4096;
    for (int i = 0; i <= nblocks; i++) {            /* first fit */
        uintptr_t to = i < nblocks ? blocks[i].at : (uintptr_t)arena + ARENA;
        if (to - from >= room) { at = from; place = i; break; }
        from = blocks[i].at + blocks[i].room;
    }
    if (!at) { pthread_mutex_unlock(&memory_lock); FAIL(CUDA_ERROR_OUT_OF_MEMORY, "arena"); }
    if (nblocks == roomblocks) { roomblocks = roomblocks ? 2 * roomblocks : 256; blocks = realloc(blocks, roomblocks * sizeof *blocks); }
    memmove(blocks + place + 1, blocks + place, (nblocks - place) * sizeof *blocks);
    blocks[place] = (Block){at, size, room, d, managed}; nblocks++;
    used_by[d] += charge(size); fakegpu_used += size; fakegpu_live = nblocks; if (fakegpu_used > fakegpu_peak) fakegpu_peak = (long)fakegpu_used;
    uintptr_t end = at + room - (uintptr_t)arena;
    if (end > top) { if (protect_arena && !openings) mprotect(arena + (top & ~4095UL), ((end + 4095) & ~4095UL) - (top & ~4095UL), PROT_NONE); top = end; }
    pthread_mutex_unlock(&memory_lock);
    protect_(1);
    size_t fill = size < (64 << 20) ? size : (64 << 20);
    memset((void *)at, filler, fill);
    memset((void *)(at + size), CANARY, room - size);
    protect_(0);
    *p = at;
    say("alloc %zu -> %p", size, (void *)at);
    return 0;
}
R cuMemAlloc(CUdeviceptr *p, size_t size) { ENTER(cuMemAlloc); UNSAFE; return allocate(api_name, p, size, 0); }
R cuMemAllocManaged(CUdeviceptr *p, size_t size, unsigned flags) { ENTER(cuMemAllocManaged); UNSAFE; return allocate(api_name, p, size, 1); }
static R deallocate(const char *api_name, CUdeviceptr p) {
    NEED_CONTEXT;
    if (!p) return 0;
    pthread_mutex_lock(&memory_lock);
    int i = find(p);
    if (i < 0 || blocks[i].at != p) { pthread_mutex_unlock(&memory_lock); violation("%s of %p, which is no live allocation", api_name, (void *)p); FAIL(CUDA_ERROR_INVALID_VALUE, "%p", (void *)p); }
    Block b = blocks[i];
    memmove(blocks + i, blocks + i + 1, (nblocks - i - 1) * sizeof *blocks); nblocks--;
    used_by[b.device] -= charge(b.size); fakegpu_used -= b.size; fakegpu_live = nblocks;
    pthread_mutex_unlock(&memory_lock);
    protect_(1);
    check_canary(&b, api_name);
    size_t n = b.size < (1 << 20) ? b.size : (1 << 20);
    memset((void *)b.at, 0x5B, n);
    if (b.size > (4 << 20)) { uintptr_t lo = (b.at + 4095) & ~4095UL, hi = (b.at + b.size) & ~4095UL; madvise((void *)lo, hi - lo, MADV_DONTNEED); }
    protect_(0);
    say("free %zu %p", b.size, (void *)p);
    return 0;
}
R cuMemFree(CUdeviceptr p) { ENTER(cuMemFree); UNSAFE; if (ncaptures) LEGACY; return deallocate(api_name, p); }
R cuMemGetInfo(size_t *free_, size_t *total) { ENTER(cuMemGetInfo); NEED_CONTEXT; *total = total_memory; *free_ = total_memory - RESERVED - in_use(current()->device); return 0; }
R cuMemGetAddressRange(CUdeviceptr *base, size_t *size, CUdeviceptr p) {
    ENTER(cuMemGetAddressRange); NEED_CONTEXT;
    int i = find(p); if (i < 0) FAIL(CUDA_ERROR_NOT_FOUND, "%p", (void *)p);
    if (base) *base = blocks[i].at; if (size) *size = blocks[i].size; return 0;
}
R cuPointerGetAttribute(void *out, CUpointer_attribute a, CUdeviceptr p) {
    ENTER(cuPointerGetAttribute); NEED_CONTEXT;
    int i = find(p); if (i < 0) FAIL(CUDA_ERROR_INVALID_VALUE, "%p is no device pointer", (void *)p);
    switch ((int)a) {
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)out = p; return 0;
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)out = (CUcontext)primary[blocks[i].device]; return 0;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)out = CU_MEMORYTYPE_DEVICE; return 0;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)out = blocks[i].device; return 0;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)out = blocks[i].managed; return 0;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *(CUdeviceptr *)out = blocks[i].at; return 0;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *(size_t *)out = blocks[i].size; return 0;
    }
    FAIL(CUDA_ERROR_INVALID_VALUE, "attribute %d", a);
}
R cuPointerGetAttributes(unsigned n, CUpointer_attribute *a, void **out, CUdeviceptr p) {
    ENTER(cuPointerGetAttributes); NEED_CONTEXT;
    int i = find(p);
    for (unsigned k = 0; k < n; k++) switch ((int)a[k]) {
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)out[k] = i < 0 ? 0 : p; break;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)out[k] = i < 0 ? 0 : CU_MEMORYTYPE_DEVICE; break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)out[k] = i < 0 ? -2 : blocks[i].device; break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)out[k] = i < 0 ? 0 : blocks[i].managed; break;
        default: *(int *)out[k] = 0;
    }
    return 0;
}
static int is_device(const void *p) { return arena && (char *)p >= arena && (char *)p < arena + ARENA; }
#define NEED_MEMORY(p, n) if (fakegpu_inside(p, n) != 1) { violation("%s: %zu bytes at %p are not within one live allocation", api_name, (size_t)(n), (void *)(p)); FAIL(CUDA_ERROR_INVALID_VALUE, "%p + %zu", (void *)(p), (size_t)(n)); }
#define NEED_HOST(p) if (is_device(p)) { violation("%s: %p is device memory, not the host's", api_name, p); FAIL(CUDA_ERROR_INVALID_VALUE, "host %p", p); }
static void copy(void *to, const void *from, size_t n) { protect_(1); memmove(to, from, n); protect_(0); }
R cuMemcpyHtoD(CUdeviceptr d, const void *s, size_t n) {
    ENTER(cuMemcpyHtoD); NEED_CONTEXT; LEGACY; UNSAFE; if (!n) return 0; NEED_MEMORY(d, n); NEED_HOST(s);
    copy((void *)d, s, n); fakegpu_bytes_h2d += n; all_complete(); say("h2d %zu", n); return 0;
}
R cuMemcpyDtoH(void *d, CUdeviceptr s, size_t n) {
    ENTER(cuMemcpyDtoH); NEED_CONTEXT; LEGACY; UNSAFE; if (!n) return 0; NEED_MEMORY(s, n); NEED_HOST(d);
    copy(d, (void *)s, n); fakegpu_bytes_d2h += n; all_complete(); say("d2h %zu", n); return 0;
}
R cuMemcpyDtoD(CUdeviceptr d, CUdeviceptr s, size_t n) {
    ENTER(cuMemcpyDtoD); NEED_CONTEXT; LEGACY; UNSAFE; if (!n) return 0; NEED_MEMORY(s, n); NEED_MEMORY(d, n);
    copy((void *)d, (void *)s, n); fakegpu_bytes_d2d += n; return 0;
}
R cuMemcpy(CUdeviceptr d, CUdeviceptr s, size_t n) { ENTER(cuMemcpy); NEED_CONTEXT; LEGACY; UNSAFE; copy((void *)d, (void *)s, n); return 0; }
static R async_copy(const char *api_name, CUstream st, int kind, CUdeviceptr d, CUdeviceptr s, const void *hs, void *hd, size_t n) {
    NEED_CONTEXT; NEED_STREAM(st); if (special(st)) LEGACY; if (!n) return 0;
    if (kind != N_D2H) NEED_MEMORY(d, n); if (kind != N_H2D) NEED_MEMORY(s, n);
    if (capturing(st)) { Node *x = add_node(((Stream *)st)->capturing, kind); x->dst = d; x->src = s; x->host_src = hs; x->host_dst = hd; x->bytes = n; return 0; }
    copy(kind == N_D2H ? hd : (void *)d, kind == N_H2D ? hs : (void *)s, n);
    if (kind == N_H2D) fakegpu_bytes_h2d += n; else if (kind == N_D2H) fakegpu_bytes_d2h += n; else fakegpu_bytes_d2d += n;
    return 0;
}
R cuMemcpyHtoDAsync(CUdeviceptr d, const void *s, size_t n, CUstream st) { ENTER(cuMemcpyHtoDAsync); return async_copy(api_name, st, N_H2D, d, 0, s, 0, n); }
R cuMemcpyDtoHAsync(void *d, CUdeviceptr s, size_t n, CUstream st) { ENTER(cuMemcpyDtoHAsync); return async_copy(api_name, st, N_D2H, 0, s, 0, d, n); }
R cuMemcpyDtoDAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream st) { ENTER(cuMemcpyDtoDAsync); return async_copy(api_name, st, N_D2D, d, s, 0, 0, n); }
R cuMemcpyAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream st) {
    ENTER(cuMemcpyAsync); int a = is_device((void *)d), b = is_device((void *)s);
    return async_copy(api_name, st, a && b ? N_D2D : a ? N_H2D : N_D2H, d, s, (void *)s, (void *)d, n); }
static void fill_(uintptr_t p, unsigned v, int width, size_t n) {
    protect_(1);
    if (width == 1) memset((void *)p, (int)v, n);
    else if (width == 2) for (size_t i = 0; i < n; i++) ((uint16_t *)p)[i] = (uint16_t)v;
    else for (size_t i = 0; i < n; i++) ((uint32_t *)p)[i] = v;
    protect_(0);
}
static R set(const char *api_name, CUdeviceptr p, unsigned v, int width, size_t n, CUstream st, int async) {
    NEED_CONTEXT; NEED_STREAM(st); if (special(st)) LEGACY; if (!async) UNSAFE; if (!n) return 0; NEED_MEMORY(p, n * width);
    if (capturing(st)) { Node *x = add_node(((Stream *)st)->capturing, N_SET); x->dst = p; x->value = v; x->width = width; x->bytes = n; return 0; }
    fill_(p, v, width, n); return 0;
}
R cuMemsetD8(CUdeviceptr p, unsigned char v, size_t n) { ENTER(cuMemsetD8); return set(api_name, p, v, 1, n, 0, 0); }
R cuMemsetD16(CUdeviceptr p, unsigned short v, size_t n) { ENTER(cuMemsetD16); return set(api_name, p, v, 2, n, 0, 0); }
R cuMemsetD32(CUdeviceptr p, unsigned v, size_t n) { ENTER(cuMemsetD32); return set(api_name, p, v, 4, n, 0, 0); }
R cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) { ENTER(cuMemsetD8Async); return set(api_name, p, v, 1, n, s, 1); }
R cuMemsetD16Async(CUdeviceptr p, unsigned short v, size_t n, CUstream s) { ENTER(cuMemsetD16Async); return set(api_name, p, v, 2, n, s, 1); }
R cuMemsetD32Async(CUdeviceptr p, unsigned v, size_t n, CUstream s) { ENTER(cuMemsetD32Async); return set(api_name, p, v, 4, n, s, 1); }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { ENTER(cuMemHostAlloc); NEED_CONTEXT; UNSAFE; *p = aligned_alloc(4096, (n + 4095) & ~4095UL); return *p ? 0 : CUDA_ERROR_OUT_OF_MEMORY; }
R cuMemAllocHost(void **p, size_t n) { ENTER(cuMemAllocHost); NEED_CONTEXT; UNSAFE; *p = aligned_alloc(4096, (n + 4095) & ~4095UL); return *p ? 0 : CUDA_ERROR_OUT_OF_MEMORY; }
R cuMemFreeHost(void *p) { ENTER(cuMemFreeHost); NEED_CONTEXT; free(p); return 0; }
R cuMemHostRegister(void *p, size_t n, unsigned f) { ENTER(cuMemHostRegister); NEED_CONTEXT; return 0; }
R cuMemHostUnregister(void *p) { ENTER(cuMemHostUnregister); NEED_CONTEXT; return 0; }
R cuMemHostGetDevicePointer(CUdeviceptr *d, void *p, unsigned f) { ENTER(cuMemHostGetDevicePointer); NEED_CONTEXT; *d = (CUdeviceptr)p; return 0; }
/* pools, as far as cuda.core asks while it looks at a device */
static struct { Head h; } *the_pool;
R cuDeviceGetDefaultMemPool(CUmemoryPool *p, CUdevice d) { ENTER(cuDeviceGetDefaultMemPool); NEED_DEVICE(d); if (!the_pool) the_pool = make(sizeof *the_pool, T_POOL); *p = (CUmemoryPool)the_pool; return 0; }
R cuDeviceGetMemPool(CUmemoryPool *p, CUdevice d) { ENTER(cuDeviceGetMemPool); NEED_DEVICE(d); if (!the_pool) the_pool = make(sizeof *the_pool, T_POOL); *p = (CUmemoryPool)the_pool; return 0; }
R cuMemPoolGetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { ENTER(cuMemPoolGetAttribute); *(cuuint64_t *)v = 0; return 0; }
R cuMemPoolSetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { ENTER(cuMemPoolSetAttribute); return 0; }
R cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t n, CUmemoryPool pool, CUstream s) { ENTER(cuMemAllocFromPoolAsync); NEED_CONTEXT; NEED_STREAM(s); if (capturing(s)) FAIL(CUDA_ERROR_NOT_SUPPORTED, "memory nodes"); return allocate(api_name, p, n, 0); }
R cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream s) { ENTER(cuMemAllocAsync); NEED_CONTEXT; NEED_STREAM(s); if (capturing(s)) FAIL(CUDA_ERROR_NOT_SUPPORTED, "memory nodes"); return allocate(api_name, p, n, 0); }
R cuMemFreeAsync(CUdeviceptr p, CUstream s) { ENTER(cuMemFreeAsync); NEED_CONTEXT; NEED_STREAM(s); return deallocate(api_name, p); }

/* ------------------------------------------------------------------ code */

#define MOST_PARAMETERS 1024    /* of four bytes each: what a card of 7.5 has room for */

struct Kernel { Head h; Library *library; char *name; int regs, local, shared, max_threads, max_dynamic, carveout, nparams, params; int offset[MOST_PARAMETERS], size[MOST_PARAMETERS]; };
struct Library { Head h; int count; Kernel *kernels[64]; int refs; };

typedef struct { uint32_t index; uint16_t ordinal, offset; uint32_t flags; } ParamInfo;
static Kernel *kernel_named(Library *l, const char *name) { for (int i = 0; i < l->count; i++) if (!strcmp(l->kernels[i]->name, name)) return l->kernels[i]; return 0; }

static R parse(const char *api_name, const unsigned char *image, Library *l) {
    const Elf64_Ehdr *e = (const void *)image;
    if (memcmp(e->e_ident, ELFMAG, 4)) {
        if (strstr((const char *)image, ".version")) FAIL(CUDA_ERROR_INVALID_PTX, "PTX: this stand-in takes cubins only");
        FAIL(CUDA_ERROR_INVALID_IMAGE, "not a cubin (first bytes %02x %02x %02x %02x)", image[0], image[1], image[2], image[3]);
    }
    int sm = e->e_flags & 0xff;
    if (sm / 10 != card->cc_major || sm % 10 > card->cc_minor) FAIL(CUDA_ERROR_NO_BINARY_FOR_GPU, "cubin for sm_%d", sm);
    const Elf64_Shdr *s = (const void *)(image + e->e_shoff);
    const char *names = (const char *)image + s[e->e_shstrndx].sh_offset;
    int reserved = 0;
    const Elf64_Sym *symbols = 0; const char *strings = 0; int nsymbols = 0;
    for (int i = 0; i < e->e_shnum; i++) if (s[i].sh_type == SHT_SYMTAB) { symbols = (const void *)(image + s[i].sh_offset); nsymbols = (int)(s[i].sh_size / sizeof *symbols); strings = (const char *)image + s[s[i].sh_link].sh_offset; }
    for (int i = 0; i < nsymbols; i++) if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC && (symbols[i].st_other & 0x10) && l->count < 64) {
        Kernel *k = make(sizeof *k, T_KERNEL); k->library = l; k->name = strdup(strings + symbols[i].st_name); k->carveout = -1; k->max_threads = 1024;
        l->kernels[l->count++] = k;
    }
    for (int i = 0; i < e->e_shnum; i++) {
        const char *name = names + s[i].sh_name;
        if (!strcmp(name, ".nv.shared.reserved.0")) reserved = 1024;      /* sections include what the system keeps of a block's */
        if (!strncmp(name, ".nv.shared.", 11)) { Kernel *k = kernel_named(l, name + 11); if (k) k->shared = (int)s[i].sh_size; }
        if (!strncmp(name, ".text.", 6)) { Kernel *k = kernel_named(l, name + 6); if (k && !k->regs) k->regs = s[i].sh_info >> 24; }
        int global = !strcmp(name, ".nv.info");
        if (global || !strncmp(name, ".nv.info.", 9)) {
            Kernel *k = global ? 0 : kernel_named(l, name + 9);
            const unsigned char *p = image + s[i].sh_offset, *end = p + s[i].sh_size;
            while (p + 4 <= end) {
                int format = p[0], what = p[1]; const unsigned char *data = p + 4; int n = 0;
                if (format == 4) n = p[2] | p[3] << 8;
                if (global && format == 4 && n == 8) {
                    uint32_t symbol, value; memcpy(&symbol, data, 4); memcpy(&value, data + 4, 4);
                    Kernel *g = (int)symbol < nsymbols ? kernel_named(l, strings + symbols[symbol].st_name) : 0;
                    if (g && what == 0x2f) g->regs = (int)value;
                    if (g && what == 0x12 && (int)value > g->local) g->local = (int)value;      /* MIN_STACK_SIZE */
                    if (g && what == 0x11 && (int)value > g->local) g->local = (int)value;      /* FRAME_SIZE */
                }
                if (k && what == 0x17 && n == 12) {
                    ParamInfo info; memcpy(&info, data, 12);
                    int size = info.flags >> 18;
                    if (info.ordinal < MOST_PARAMETERS) { k->offset[info.ordinal] = info.offset; k->size[info.ordinal] = size; if (info.ordinal + 1 > k->nparams) k->nparams = info.ordinal + 1; if (info.offset + size > k->params) k->params = info.offset + size; }
                    else violation("kernel %s has more than %d parameters", k->name, MOST_PARAMETERS);
                }
                if (k && what == 0x05 && n == 12) { uint32_t v[3]; memcpy(v, data, 12); int m = (int)(v[0] * v[1] * v[2]); if (m < k->max_threads) k->max_threads = m; }
                p = data + n;
            }
        }
    }
    for (int i = 0; i < l->count; i++) {
        Kernel *k = l->kernels[i];
        k->shared -= reserved;
        int per_warp = ((k->regs ? k->regs : 1) * 32 + 255) / 256 * 256, by_regs = 65536 / per_warp / 4 * 4 * 32;   /* warps come in fours */
        if (by_regs < k->max_threads) k->max_threads = by_regs;
        k->max_dynamic = 49152 - k->shared;
        say("kernel %s: %d registers, %d bytes local, %d shared, %d parameters of %d bytes, at most %d threads", k->name, k->regs, k->local, k->shared, k->nparams, k->params, k->max_threads);
    }
    if (!l->count) say("no kernel in the image");
    return 0;
}
static R load(const char *api_name, Library **out, const void *image) {
    Library *l = make(sizeof *l, T_LIB);
    R r = parse(api_name, image, l); if (r) return r;
    *out = l; return 0;
}
R cuLibraryLoadData(CUlibrary *out, const void *code, CUjit_option *o, void **v, unsigned n, CUlibraryOption *lo, void **lv, unsigned ln) {
    ENTER(cuLibraryLoadData); NEED_INIT; UNSAFE; return load(api_name, (Library **)out, code); }
R cuLibraryUnload(CUlibrary l) {
    ENTER(cuLibraryUnload); NEED_INIT; if (!is(l, T_LIB)) FAIL(CUDA_ERROR_INVALID_HANDLE, "library %p", l);
    Library *x = (Library *)l; x->h.alive = 0; for (int i = 0; i < x->count; i++) { x->kernels[i]->h.alive = 0; say("unload kernel %s", x->kernels[i]->name); } return 0; }
R cuLibraryGetKernel(CUkernel *k, CUlibrary l, const char *name) { ENTER(cuLibraryGetKernel); NEED_INIT; if (!is(l, T_LIB)) FAIL(CUDA_ERROR_INVALID_HANDLE, "library"); *k = (CUkernel)kernel_named((Library *)l, name); if (!*k) FAIL(CUDA_ERROR_NOT_FOUND, "kernel %s", name); return 0; }
R cuLibraryGetKernelCount(unsigned *n, CUlibrary l) { ENTER(cuLibraryGetKernelCount); *n = ((Library *)l)->count; return 0; }
R cuLibraryGetModule(CUmodule *m, CUlibrary l) { ENTER(cuLibraryGetModule); NEED_CONTEXT; *m = (CUmodule)l; return 0; }
R cuLibraryGetGlobal(CUdeviceptr *p, size_t *n, CUlibrary l, const char *name) { ENTER(cuLibraryGetGlobal); FAIL(CUDA_ERROR_NOT_FOUND, "%s", name); }
R cuKernelGetLibrary(CUlibrary *l, CUkernel k) { ENTER(cuKernelGetLibrary); if (!is(k, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel"); *l = (CUlibrary)((Kernel *)k)->library; return 0; }
R cuKernelGetFunction(CUfunction *f, CUkernel k) { ENTER(cuKernelGetFunction); NEED_CONTEXT; if (!is(k, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel"); *f = (CUfunction)k; return 0; }
R cuKernelGetName(const char **n, CUkernel k) { ENTER(cuKernelGetName); if (!is(k, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel"); *n = ((Kernel *)k)->name; return 0; }
R cuFuncGetName(const char **n, CUfunction k) { ENTER(cuFuncGetName); if (!is(k, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel"); *n = ((Kernel *)k)->name; return 0; }
R cuKernelGetParamInfo(CUkernel k, size_t i, size_t *offset, size_t *size) { ENTER(cuKernelGetParamInfo); Kernel *x = (Kernel *)k; if (i >= (size_t)x->nparams) FAIL(CUDA_ERROR_INVALID_VALUE, "%zu", i); *offset = x->offset[i]; if (size) *size = x->size[i]; return 0; }
R cuFuncGetParamInfo(CUfunction k, size_t i, size_t *offset, size_t *size) { ENTER(cuFuncGetParamInfo); Kernel *x = (Kernel *)k; if (i >= (size_t)x->nparams) FAIL(CUDA_ERROR_INVALID_VALUE, "%zu", i); *offset = x->offset[i]; if (size) *size = x->size[i]; return 0; }
static R get_attribute(const char *api_name, int *v, CUfunction_attribute a, Kernel *k) {
    if (!is(k, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel %p is not alive", k);
    switch ((int)a) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *v = k->max_threads; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *v = k->shared; break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *v = 0; break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *v = k->local; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *v = k->regs; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *v = card->cc_major * 10 + card->cc_minor; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *v = k->max_dynamic; break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *v = k->carveout; break;
    default: *v = 0;
    }
    return 0;
}
static R set_attribute(const char *api_name, CUfunction_attribute a, int v, Kernel *k) {
    if (!is(k, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel %p is not alive", k);
    if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (v < 0 || v + k->shared > card->optin) FAIL(CUDA_ERROR_INVALID_VALUE, "%d dynamic + %d static bytes of shared memory; the card has %d", v, k->shared, card->optin);
        k->max_dynamic = v;
    } else if (a == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) k->carveout = v;
    else FAIL(CUDA_ERROR_INVALID_VALUE, "attribute %d cannot be set", a);
    return 0;
}
R cuKernelGetAttribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice d) { ENTER(cuKernelGetAttribute); NEED_DEVICE(d); return get_attribute(api_name, v, a, (Kernel *)k); }
R cuKernelSetAttribute(CUfunction_attribute a, int v, CUkernel k, CUdevice d) { ENTER(cuKernelSetAttribute); NEED_DEVICE(d); return set_attribute(api_name, a, v, (Kernel *)k); }
R cuKernelSetCacheConfig(CUkernel k, CUfunc_cache c, CUdevice d) { ENTER(cuKernelSetCacheConfig); return 0; }
R cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction k) { ENTER(cuFuncGetAttribute); NEED_CONTEXT; return get_attribute(api_name, v, a, (Kernel *)k); }
R cuFuncSetAttribute(CUfunction k, CUfunction_attribute a, int v) { ENTER(cuFuncSetAttribute); NEED_CONTEXT; return set_attribute(api_name, a, v, (Kernel *)k); }
R cuFuncGetModule(CUmodule *m, CUfunction k) { ENTER(cuFuncGetModule); *m = (CUmodule)((Kernel *)k)->library; return 0; }
R cuModuleLoadData(CUmodule *m, const void *image) { ENTER(cuModuleLoadData); NEED_CONTEXT; UNSAFE; return load(api_name, (Library **)m, image); }
R cuModuleLoadDataEx(CUmodule *m, const void *image, unsigned n, CUjit_option *o, void **v) { ENTER(cuModuleLoadDataEx); NEED_CONTEXT; UNSAFE; return load(api_name, (Library **)m, image); }
R cuModuleUnload(CUmodule m) { ENTER(cuModuleUnload); if (!is(m, T_LIB)) FAIL(CUDA_ERROR_INVALID_HANDLE, "module"); ((Head *)m)->alive = 0; return 0; }
R cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) { ENTER(cuModuleGetFunction); NEED_CONTEXT; if (!is(m, T_LIB)) FAIL(CUDA_ERROR_INVALID_HANDLE, "module"); *f = (CUfunction)kernel_named((Library *)m, name); if (!*f) FAIL(CUDA_ERROR_NOT_FOUND, "%s", name); return 0; }
R cuModuleGetLoadingMode(CUmoduleLoadingMode *m) { ENTER(cuModuleGetLoadingMode); *m = CU_MODULE_LAZY_LOADING; return 0; }

static int occupancy(Kernel *k, int threads, size_t dynamic) {
    int warps = (threads + 31) / 32, n = card->blocks_per_sm;
    int per_warp = ((k->regs ? k->regs : 1) * 32 + 255) / 256 * 256;
    int warps_by_regs = 65536 / per_warp / 4 * 4;
    size_t shared = k->shared + dynamic + (card->cc_major >= 8 ? 1024 : 0);
    if (threads < 1 || threads > k->max_threads || k->shared + dynamic > (size_t)(k->shared + (k->max_dynamic > 49152 - k->shared ? k->max_dynamic : 49152 - k->shared))) return 0;
    if (card->threads_per_sm / 32 / warps < n) n = card->threads_per_sm / 32 / warps;
    if (warps_by_regs / warps < n) n = warps_by_regs / warps;
    if (shared && (int)(card->shared_per_sm / ((shared + 255) / 256 * 256)) < n) n = (int)(card->shared_per_sm / ((shared + 255) / 256 * 256));
    return n;
}
R cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int threads, size_t dynamic) { ENTER(cuOccupancyMaxActiveBlocksPerMultiprocessor); NEED_CONTEXT; if (!is(f, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "function"); *n = occupancy((Kernel *)f, threads, dynamic); return 0; }
R cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, CUfunction f, int threads, size_t dynamic, unsigned flags) { ENTER(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags); NEED_CONTEXT; if (!is(f, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "function"); *n = occupancy((Kernel *)f, threads, dynamic); return 0; }

/* ------------------------------------------------------------------ launches */

typedef int (*Executor)(const char *name, const unsigned *grid, const unsigned *block, unsigned shared, const unsigned char *params, const int *offsets, const int *sizes, int nparams, int cooperative, void *kernel);
static Executor executor;
EXPORT void fakegpu_set_executor(Executor e) { executor = e; }

static R run(const char *api_name, Kernel *k, const unsigned *grid, const unsigned *block, unsigned shared, const unsigned char *params, int cooperative, int in_graph) {
    if (!is(k, T_KERNEL)) { violation("%s: the kernel's module was unloaded", api_name); FAIL(CUDA_ERROR_INVALID_HANDLE, "kernel"); }
    fakegpu_kernels++; if (in_graph) fakegpu_graph_kernels++;
    say("%s %s (%u,%u,%u)x(%u,%u,%u) shared %u%s", in_graph ? "replay" : "run", k->name, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, cooperative ? " cooperative" : "");
    if (!executor) { static int told; if (!told++) fprintf(stderr, "FAKEGPU: no executor, launches do nothing\n"); return 0; }
    protect_(1);
    int r = executor(k->name, grid, block, shared, params, k->offset, k->size, k->nparams, cooperative, k);
    protect_(0);
    if (r) { sticky = (R)r; FAIL((R)r, "kernel %s failed", k->name); }
    return 0;
}
static R launch(const char *api_name, CUfunction f, const unsigned *grid, const unsigned *block, unsigned shared, CUstream s, void **params, void **extra, int cooperative) {
    NEED_CONTEXT; NEED_STREAM(s);
    if (!is(f, T_KERNEL)) FAIL(CUDA_ERROR_INVALID_HANDLE, "function %p is not alive", f);
    Kernel *k = (Kernel *)f;
    static const unsigned most_grid[3] = {0x7fffffff, 65535, 65535}, most_block[3] = {1024, 1024, 64};
    for (int i = 0; i < 3; i++) {
        if (!grid[i] || grid[i] > most_grid[i]) FAIL(CUDA_ERROR_INVALID_VALUE, "%s: grid (%u, %u, %u)", k->name, grid[0], grid[1], grid[2]);
        if (!block[i] || block[i] > most_block[i]) FAIL(CUDA_ERROR_INVALID_VALUE, "%s: block (%u, %u, %u)", k->name, block[0], block[1], block[2]);
    }
    unsigned long threads = (unsigned long)block[0] * block[1] * block[2];
    if (threads > 1024) FAIL(CUDA_ERROR_INVALID_VALUE, "%s: %lu threads", k->name, threads);
    if (threads > (unsigned long)k->max_threads) FAIL(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "%s: %lu threads of %d registers; at most %d", k->name, threads, k->regs, k->max_threads);
    if (shared > (unsigned)k->max_dynamic) FAIL(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of dynamic shared memory (static %d), %d allowed", k->name, shared, k->shared, k->max_dynamic);
    if (cooperative && (unsigned long)occupancy(k, (int)threads, shared) * card->sms < (unsigned long)grid[0] * grid[1] * grid[2])
        FAIL(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "%s: %lu blocks, %d resident", k->name, (unsigned long)grid[0] * grid[1] * grid[2], occupancy(k, (int)threads, shared) * card->sms);
    unsigned char buffer[4400]; memset(buffer, 0, sizeof buffer);
    if (k->params > 4352) FAIL(CUDA_ERROR_INVALID_VALUE, "parameters of %d bytes", k->params);
    if (k->params && !params && !extra) FAIL(CUDA_ERROR_INVALID_VALUE, "no parameters");
    if (params) for (int i = 0; i < k->nparams; i++) memcpy(buffer + k->offset[i], params[i], k->size[i]);
    if (special(s)) { R r = legacy(api_name); if (r) return r; }
    Stream *c = capturing(s);
    if (c) {
        Node *n = add_node(c->capturing, N_KERNEL); n->kernel = k; memcpy(n->grid, grid, 12); memcpy(n->block, block, 12); n->shared = shared; n->cooperative = cooperative;
        n->params = malloc(k->params + 1); memcpy(n->params, buffer, k->params);
        say("capture %s", k->name);
        return 0;
    }
    return run(api_name, k, grid, block, shared, buffer, cooperative, 0);
}
R cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream s, void **params, void **extra) {
    ENTER(cuLaunchKernel); unsigned g[3] = {gx, gy, gz}, b[3] = {bx, by, bz}; return launch(api_name, f, g, b, shared, s, params, extra, 0); }
R cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream s, void **params) {
    ENTER(cuLaunchCooperativeKernel); unsigned g[3] = {gx, gy, gz}, b[3] = {bx, by, bz}; return launch(api_name, f, g, b, shared, s, params, 0, 1); }
R cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra) {
    ENTER(cuLaunchKernelEx);
    unsigned g[3] = {c->gridDimX, c->gridDimY, c->gridDimZ}, b[3] = {c->blockDimX, c->blockDimY, c->blockDimZ};
    int cooperative = 0;
    for (unsigned i = 0; i < c->numAttrs; i++) {
        if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) cooperative = c->attrs[i].value.cooperative;
        else if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION && card->cc_major < 9) FAIL(CUDA_ERROR_NOT_SUPPORTED, "clusters");
    }
    return launch(api_name, f, g, b, c->sharedMemBytes, c->hStream, params, extra, cooperative);
}

/* ------------------------------------------------------------------ graphs */

R cuGraphCreate(CUgraph *g, unsigned f) { ENTER(cuGraphCreate); NEED_INIT; *g = (CUgraph)make(sizeof(Graph), T_GRAPH); return 0; }
R cuGraphDestroy(CUgraph g) { ENTER(cuGraphDestroy); if (!is(g, T_GRAPH)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph"); ((Head *)g)->alive = 0; return 0; }
R cuGraphClone(CUgraph *out, CUgraph g) { ENTER(cuGraphClone); if (!is(g, T_GRAPH)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph"); Graph *x = make(sizeof *x, T_GRAPH), *o = (Graph *)g; x->count = x->room = o->count; x->nodes = malloc(sizeof *x->nodes * (o->count + 1)); memcpy(x->nodes, o->nodes, sizeof *x->nodes * o->count); *out = (CUgraph)x; return 0; }
R cuGraphGetNodes(CUgraph g, CUgraphNode *nodes, size_t *n) { ENTER(cuGraphGetNodes); if (!is(g, T_GRAPH)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph"); Graph *x = (Graph *)g; if (nodes) for (size_t i = 0; i < *n && i < (size_t)x->count; i++) nodes[i] = (CUgraphNode)x->nodes[i]; *n = x->count; return 0; }
static R instantiate(const char *api_name, CUgraphExec *e, CUgraph g) {
    NEED_CONTEXT; if (!is(g, T_GRAPH)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph");
    UNSAFE;
    Exec *x = make(sizeof *x, T_EXEC); CUgraph copy; cuGraphClone(&copy, g); x->graph = (Graph *)copy; x->graph->h.type = 99; *e = (CUgraphExec)x; return 0;
}
#undef cuGraphInstantiate
R cuGraphInstantiate(CUgraphExec *e, CUgraph g, CUgraphNode *bad, char *log, size_t n) { ENTER(cuGraphInstantiate); return instantiate(api_name, e, g); }
R cuGraphInstantiate_v2(CUgraphExec *e, CUgraph g, CUgraphNode *bad, char *log, size_t n) { ENTER(cuGraphInstantiate_v2); return instantiate(api_name, e, g); }
R cuGraphInstantiateWithFlags(CUgraphExec *e, CUgraph g, unsigned long long f) { ENTER(cuGraphInstantiateWithFlags); return instantiate(api_name, e, g); }
R cuGraphInstantiateWithParams(CUgraphExec *e, CUgraph g, CUDA_GRAPH_INSTANTIATE_PARAMS *p) { ENTER(cuGraphInstantiateWithParams); p->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS; return instantiate(api_name, e, g); }
R cuGraphExecDestroy(CUgraphExec e) { ENTER(cuGraphExecDestroy); if (!is(e, T_EXEC)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph exec"); ((Head *)e)->alive = 0; return 0; }
R cuGraphUpload(CUgraphExec e, CUstream s) { ENTER(cuGraphUpload); NEED_CONTEXT; if (!is(e, T_EXEC)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph exec"); return 0; }
static R replay(const char *api_name, Graph *g) {
    for (int i = 0; i < g->count; i++) {
        Node *n = g->nodes[i]; R r = 0;
        switch (n->kind) {
        case N_KERNEL: r = run(api_name, n->kernel, n->grid, n->block, n->shared, n->params, n->cooperative, 1); break;
        case N_EVENT: n->event->recorded = 1; n->event->complete = generation(); n->event->at = now(); break;
        case N_D2D: copy((void *)n->dst, (void *)n->src, n->bytes); break;
        case N_H2D: copy((void *)n->dst, n->host_src, n->bytes); break;
        case N_D2H: copy(n->host_dst, (void *)n->src, n->bytes); break;
        case N_SET: fill_(n->dst, n->value, n->width, n->bytes); break;
        case N_HOST: n->fn(n->data); break;
        case N_CHILD: r = replay(api_name, n->child); break;
        }
        if (r) return r;
    }
    return 0;
}
R cuGraphLaunch(CUgraphExec e, CUstream s) {
    ENTER(cuGraphLaunch); NEED_CONTEXT; NEED_STREAM(s);
    if (!is(e, T_EXEC)) FAIL(CUDA_ERROR_INVALID_HANDLE, "graph exec %p is not alive", e);
    if (special(s)) LEGACY;
    if (capturing(s)) FAIL(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "graph launch while capturing");
    return replay(api_name, ((Exec *)e)->graph);
}
R cuGraphDebugDotPrint(CUgraph g, const char *path, unsigned f) { ENTER(cuGraphDebugDotPrint); return 0; }
R cuUserObjectCreate(CUuserObject *o, void *p, CUhostFn destroy, unsigned refs, unsigned f) { ENTER(cuUserObjectCreate); Node *n = make(sizeof *n, T_USEROBJ); n->fn = destroy; n->data = p; n->bytes = refs; *o = (CUuserObject)n; return 0; }
R cuUserObjectRetain(CUuserObject o, unsigned n) { ENTER(cuUserObjectRetain); ((Node *)o)->bytes += n; return 0; }
R cuUserObjectRelease(CUuserObject o, unsigned n) { ENTER(cuUserObjectRelease); ((Node *)o)->bytes -= n; return 0; }
R cuGraphRetainUserObject(CUgraph g, CUuserObject o, unsigned n, unsigned f) { ENTER(cuGraphRetainUserObject); return 0; }
R cuGraphReleaseUserObject(CUgraph g, CUuserObject o, unsigned n) { ENTER(cuGraphReleaseUserObject); return 0; }
R cuGraphNodeGetType(CUgraphNode n, CUgraphNodeType *t) { ENTER(cuGraphNodeGetType); *t = ((Node *)n)->kind == N_KERNEL ? CU_GRAPH_NODE_TYPE_KERNEL : CU_GRAPH_NODE_TYPE_EMPTY; return 0; }

R cuProfilerStart(void) { ENTER(cuProfilerStart); return 0; }
R cuProfilerStop(void) { ENTER(cuProfilerStop); return 0; }

#include "generated.h"   /* names of errors, stubs of the rest, cuGetProcAddress */
