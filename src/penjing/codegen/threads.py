"""What the C of a kernel may say of threads; without OpenMP it says nothing."""

from __future__ import annotations

START_NS = 3000.0
"""Of starting the threads and waiting for the last."""

PRELUDE = """#if defined(_OPENMP)
#include <omp.h>
#define PJ_PRAGMA(x) _Pragma(#x)
#define PJ_PARALLEL _Pragma("omp parallel for")
#define PJ_THREADS(n) PJ_PRAGMA(omp parallel for num_threads(n))
#define PJ_THREAD omp_get_thread_num()
#else
#define PJ_PARALLEL
#define PJ_THREADS(n)
#define PJ_THREAD 0
#endif
"""
"""`PJ_PARALLEL` and `PJ_THREADS(n)` go on the line before the outermost independent loop; in the
second at most n run, each with scratch of its own at `PJ_THREAD`."""
