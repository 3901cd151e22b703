/* Layer norm over runs of values; an RMS norm when it is not centred. */
static void pj_norm(const int8_t *x, int8_t *y, int32_t runs, int32_t n, const int32_t *gain,
                    const int32_t *offset, int32_t shift, int64_t epsilon, int32_t zero,
                    int32_t centred, int32_t about) {
    for (; runs > 0; --runs, x += n, y += n) {
        int32_t total = 0, squares = 0;
        for (int32_t i = 0; i < n; ++i) {
            const int32_t v = x[i] - about;
            total += v * centred;
            squares += v * v;
        }
        const pj_normal_t by = pj_normal((int64_t)n * squares - (int64_t)total * total + epsilon);
        for (int32_t i = 0; i < n; ++i) {
            const int32_t deviation = n * (x[i] - about) - total;
            y[i] = pj_normed(by, deviation, gain[i], offset[i], shift, zero);
        }
    }
}
