/* Softmax over runs of values in fixed point, as TensorFlow Lite defines it. */
static inline int32_t pj_product(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

static inline int32_t pj_shift_right(int32_t x, int32_t n) {
    const int32_t mask = (int32_t)(((int64_t)1 << n) - 1);
    return (x >> n) + ((x & mask) > (mask >> 1) + (x < 0));
}

static int32_t pj_exp(int32_t a) { /* 26 fractional bits to 31; a <= 0 */
    static const int32_t steps[7] = {1672461947, 1302514674, 790015084, 290630308,
                                     39332535,   720401,     242};
    if (a == 0) {
        return INT32_MAX;
    }
    const int32_t rest = (a & 0xFFFFFF) - 0x1000000, bits = rest - a;
    const int32_t x = rest * 32 + (1 << 28), x2 = pj_product(x, x), x3 = pj_product(x2, x);
    const int32_t x4 = pj_shift_right(pj_product(x2, x2), 2);
    const int32_t tail = pj_shift_right(pj_product(x4 + x3, 715827883) + x2, 1);
    int32_t result = 1895147668 + pj_product(x + tail, 1895147668);
    for (int32_t i = 0; i < 7; ++i) {
        if (bits >> (24 + i) & 1) {
            result = pj_product(result, steps[i]);
        }
    }
    return result;
}

static int32_t pj_one_over_one_plus(int32_t a) { /* a in [0, 1), 31 fractional bits */
    const int32_t half = (int32_t)(((int64_t)a + INT32_MAX + 1) >> 1);
    int32_t x = 1515870810 + pj_product(half, -1010580540);
    for (int32_t i = 0; i < 3; ++i) {
        x += pj_product(x, (1 << 29) - pj_product(half, x)) * 4;
    }
    return x > INT32_MAX / 2 ? INT32_MAX : x * 2;
}

/* Where mask is 0, values do not count; its rows repeat after `rows` runs. */
static void pj_softmax(const int8_t *x, int8_t *y, int32_t n, int32_t run, int32_t multiplier,
                       int32_t shift, int32_t least, const int8_t *mask, int32_t rows) {
    for (int32_t k = 0; k < n; ++k, x += run, y += run) {
        const int8_t *const seen = mask == NULL ? NULL : mask + k % rows * run;
        int32_t best = -128, sum = 0, spare = 0;
        for (int32_t i = 0; i < run; ++i) {
            best = x[i] > best && (seen == NULL || seen[i]) ? x[i] : best;
        }
        for (int32_t i = 0; i < run; ++i) {
            if (x[i] - best >= least && (seen == NULL || seen[i])) {
                const int32_t a = pj_product((x[i] - best) * (1 << shift), multiplier);
                sum += pj_shift_right(pj_exp(a), 12);
            }
        }
        sum = sum > 0 ? sum : 1;
        while (((uint32_t)sum << spare & 0x80000000u) == 0) {
            ++spare;
        }
        const uint32_t rest = ((uint32_t)sum << spare) - 0x80000000u;
        const int32_t share = pj_one_over_one_plus((int32_t)rest);
        for (int32_t i = 0; i < run; ++i) {
            int32_t result = 0;
            if (x[i] - best >= least && (seen == NULL || seen[i])) {
                const int32_t a = pj_product((x[i] - best) * (1 << shift), multiplier);
                result = pj_shift_right(pj_product(share, pj_exp(a)), 12 - spare + 31 - 8);
            }
            y[i] = pj_clamp(result - 128, -128, 127);
        }
    }
}
