/* Dense convolution, four outputs of one pixel at a time; weights lie output by output. */
#if defined(__ARM_FEATURE_MVE) && !defined(PENJING_PLAIN)
#include <arm_mve.h>
static inline void pj_dot4_16(const int16_t *x, const int8_t *w, int32_t depth, int32_t n,
                              int32_t *sums) {
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    const int8_t *const w1 = w + depth, *const w2 = w1 + depth, *const w3 = w2 + depth;
    for (int32_t i = 0; i < n; i += 8) {
        const mve_pred16_t rest = vctp16q((uint32_t)(n - i));
        const int16x8_t v = vldrhq_z_s16(x + i, rest);
        s0 = vmladavaq_s16(s0, v, vldrbq_z_s16(w + i, rest));
        s1 = vmladavaq_s16(s1, v, vldrbq_z_s16(w1 + i, rest));
        s2 = vmladavaq_s16(s2, v, vldrbq_z_s16(w2 + i, rest));
        s3 = vmladavaq_s16(s3, v, vldrbq_z_s16(w3 + i, rest));
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}
#else
static inline void pj_dot4_16(const int16_t *x, const int8_t *w, int32_t depth, int32_t n,
                              int32_t *sums) {
    for (int32_t j = 0; j < 4; ++j, w += depth) {
        int32_t s = 0;
        for (int32_t i = 0; i < n; ++i) {
            s += x[i] * w[i];
        }
        sums[j] = s;
    }
}
#endif

static void pj_single_16(const pj_conv_16_t *k, const int16_t *a, int16_t *y) {
    const int32_t depth = k->depth;
    const int8_t *w = k->weight;
    int32_t o = 0;
    for (; o + 4 <= k->outputs; o += 4, w += 4 * depth) {
        int64_t total[4] = {k->bias[o], k->bias[o + 1], k->bias[o + 2], k->bias[o + 3]};
        for (int32_t at = 0; at < depth; at += PJ_MOST) {
            int32_t sums[4];
            const int32_t left = depth - at;
            pj_dot4_16(a + at, w + at, depth, left < PJ_MOST ? left : PJ_MOST, sums);
            for (int32_t j = 0; j < 4; ++j) {
                total[j] += sums[j];
            }
        }
        for (int32_t j = 0; j < 4; ++j) {
            y[o + j] = pj_finish_16(k, o + j, total[j]);
        }
    }
    for (; o < k->outputs; ++o, w += depth) {
        int64_t sum = k->bias[o];
        for (int32_t i = 0; i < depth; ++i) {
            sum += a[i] * w[i];
        }
        y[o] = pj_finish_16(k, o, sum);
    }
}

static void pj_conv_16(const pj_conv_16_t *k, const int16_t *x, int16_t *y, int16_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; ++at, y += k->outputs) {
            if (k->pitch == 0) {
                pj_single_16(k, x + (row * k->width + at) * k->channels, y);
            } else {
                pj_column_16(k, x, row, at, scratch);
                pj_single_16(k, scratch, y);
            }
        }
    }
}
