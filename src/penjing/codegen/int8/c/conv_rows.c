/* Dense convolution, four outputs of one pixel at a time; weights lie output by output. */
#if defined(__ARM_FEATURE_MVE) && !defined(PENJING_PLAIN)
static inline void pj_dot4(const pj_conv_t *k, int32_t o, const int8_t *x, const int8_t *w,
                           int8_t *y) {
    const int32_t depth = k->depth;
    int32_t s0 = k->bias[o], s1 = k->bias[o + 1], s2 = k->bias[o + 2], s3 = k->bias[o + 3];
    const int8_t *const w1 = w + depth, *const w2 = w1 + depth, *const w3 = w2 + depth;
    int32_t i = 0;
    for (; i + 16 <= depth; i += 16) {
        const int8x16_t v = vldrbq_s8(x + i);
        s0 = vmladavaq_s8(s0, v, vldrbq_s8(w + i));
        s1 = vmladavaq_s8(s1, v, vldrbq_s8(w1 + i));
        s2 = vmladavaq_s8(s2, v, vldrbq_s8(w2 + i));
        s3 = vmladavaq_s8(s3, v, vldrbq_s8(w3 + i));
    }
    if (i < depth) {
        const mve_pred16_t rest = vctp8q((uint32_t)(depth - i));
        const int8x16_t v = vldrbq_z_s8(x + i, rest);
        s0 = vmladavaq_s8(s0, v, vldrbq_z_s8(w + i, rest));
        s1 = vmladavaq_s8(s1, v, vldrbq_z_s8(w1 + i, rest));
        s2 = vmladavaq_s8(s2, v, vldrbq_z_s8(w2 + i, rest));
        s3 = vmladavaq_s8(s3, v, vldrbq_z_s8(w3 + i, rest));
    }
    const int32_t sums[4] = {s0, s1, s2, s3};
    pj_finish4(k, o, vld1q_s32(sums), y);
}
#else
static inline void pj_dot4(const pj_conv_t *k, int32_t o, const int8_t *x, const int8_t *w,
                           int8_t *y) {
    const int32_t depth = k->depth;
    int32_t sums[4];
    for (int32_t j = 0; j < 4; ++j, w += depth) {
        int32_t s = 0;
        for (int32_t i = 0; i < depth; ++i) {
            s += x[i] * w[i];
        }
        sums[j] = k->bias[o + j] + s;
    }
    pj_finish4(k, o, sums, y);
}
#endif

static void pj_single(const pj_conv_t *k, const int8_t *a, int8_t *y) {
    const int32_t depth = k->depth;
    const int8_t *w = k->weight;
    int32_t o = 0;
    for (; o + 4 <= k->outputs; o += 4, w += 4 * depth) {
        pj_dot4(k, o, a, w, y + o);
    }
    for (; o < k->outputs; ++o, w += depth) {
        int32_t s = k->bias[o];
        for (int32_t i = 0; i < depth; ++i) {
            s += a[i] * w[i];
        }
        y[o] = pj_finish(k, o, s);
    }
}

static void pj_tile(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t first, int32_t count,
                    int8_t *y, int8_t *scratch) {
    for (int32_t i = 0; i < count; ++i, y += k->outputs) {
        if (k->pitch == 0) {
            pj_single(k, x + (row * k->width + first + i) * k->channels, y);
        } else {
            pj_column(k, x, row, first + i, scratch);
            pj_single(k, scratch, y);
        }
    }
}

static void pj_conv(const pj_conv_t *k, const int8_t *x, int8_t *y, int8_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        pj_tile(k, x, row, 0, k->columns, y, scratch);
        y += k->columns * k->outputs;
    }
}
