/* Layer norm over runs of values, in fixed point; an RMS norm when it is not centred. */
static void pj_norm(const int8_t *x, int8_t *y, int32_t runs, int32_t n, const int32_t *gain,
                    const int32_t *offset, int32_t shift, int64_t epsilon, int32_t zero,
                    int32_t centred, int32_t about) {
    for (; runs > 0; --runs, x += n, y += n) {
        int32_t total = 0, squares = 0, up = 0;
        for (int32_t i = 0; i < n; ++i) {
            const int32_t v = x[i] - about;
            total += v * centred;
            squares += v * v;
        }
        const int64_t spread = (int64_t)n * squares - (int64_t)total * total + epsilon;
        while (up < 30 && (uint64_t)spread << (2 * up) < (uint64_t)1 << 60) {
            ++up;
        }
        const uint32_t root = pj_root((uint64_t)spread << (2 * up));
        const uint64_t inverse = ((uint64_t)1 << 61) / (root > 0 ? root : 1);
        const int64_t share = inverse > INT32_MAX ? INT32_MAX : (int64_t)inverse;
        const int32_t down = 41 - up, bits = shift + 20;
        for (int32_t i = 0; i < n; ++i) {
            const int64_t product = (int64_t)(n * (x[i] - about) - total) * share;
            const int64_t normal = (product + ((int64_t)1 << (down - 1))) >> down;
            const int64_t sum = normal * gain[i] + offset[i] * ((int64_t)1 << (shift + 4));
            const int64_t whole = (sum + ((int64_t)1 << (bits - 1))) >> bits;
            const int32_t result = (int32_t)(whole < -512 ? -512 : whole > 512 ? 512 : whole);
            y[i] = pj_clamp(result + zero, -128, 127);
        }
    }
}
