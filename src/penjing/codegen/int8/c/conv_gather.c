/* Sparse convolution, four pixels and sixteen weights at a time. An output is a count of chunks (two
 * bytes, low first), then chunks: how far to go on in the window (two bytes again), sixteen
 * distances from there, sixteen weights; the last chunk is filled up with zeros. */
#if defined(__ARM_FEATURE_MVE) && !defined(PENJING_PLAIN)
static inline void pj_gather_finish(const pj_conv_t *k, int32_t o, const int32_t *sums,
                                    int32_t count, int8_t *y) {
    const int32_t at = o & k->which, n = k->shift[at];
    if (n < 0) {
        for (int32_t i = 0; i < count; ++i) {
            y[i * k->outputs] = pj_finish(k, o, sums[i]);
        }
        return;
    }
    const int32x4_t high = vqrdmulhq_n_s32(vld1q_s32(sums), k->multiplier[at]);
    const int32x4_t nudge = n > 0 ? vshrq_n_s32(high, 31) : vdupq_n_s32(0);
    int32x4_t q = vaddq_n_s32(vrshlq_n_s32(vaddq_s32(high, nudge), -n), k->zero);
    q = vminq_s32(vmaxq_s32(q, vdupq_n_s32(k->low)), vdupq_n_s32(k->high));
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)k->outputs);
    vstrbq_scatter_offset_p_s32(y, places, q, vctp32q((uint32_t)count));
}

static inline const int8_t *pj_gather_sums(const int8_t *list, const int8_t *x, int32_t step,
                                           int32_t *sums) {
    int32_t s0 = sums[0], s1 = s0, s2 = s0, s3 = s0;
    int32_t n = (uint8_t)list[0] + 256 * (uint8_t)list[1];
    for (list += 2; n > 0; --n, list += 34) {
        x += (uint8_t)list[0] + 256 * (uint8_t)list[1];
        const uint8x16_t at = vldrbq_u8((const uint8_t *)list + 2);
        const int8x16_t w = vldrbq_s8(list + 18);
        s0 = vmladavaq_s8(s0, w, vldrbq_gather_offset_s8(x, at));
        s1 = vmladavaq_s8(s1, w, vldrbq_gather_offset_s8(x + step, at));
        s2 = vmladavaq_s8(s2, w, vldrbq_gather_offset_s8(x + 2 * step, at));
        s3 = vmladavaq_s8(s3, w, vldrbq_gather_offset_s8(x + 3 * step, at));
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    return list;
}
#else
static inline void pj_gather_finish(const pj_conv_t *k, int32_t o, const int32_t *sums,
                                    int32_t count, int8_t *y) {
    for (int32_t i = 0; i < count; ++i) {
        y[i * k->outputs] = pj_finish(k, o, sums[i]);
    }
}

static inline const int8_t *pj_gather_sums(const int8_t *list, const int8_t *x, int32_t step,
                                           int32_t *sums) {
    sums[1] = sums[2] = sums[3] = sums[0];
    int32_t n = (uint8_t)list[0] + 256 * (uint8_t)list[1];
    for (list += 2; n > 0; --n, list += 34) {
        x += (uint8_t)list[0] + 256 * (uint8_t)list[1];
        for (int32_t j = 0; j < 16; ++j) {
            for (int32_t i = 0; i < 4; ++i) {
                sums[i] += list[18 + j] * x[(uint8_t)list[2 + j] + i * step];
            }
        }
    }
    return list;
}
#endif

static void pj_gather_tile(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t first,
                           int32_t count, int8_t *y, int8_t *scratch) {
    const int8_t *list = k->weight;
    const int32_t step = k->stride_width * k->channels;
    pj_window(k, x, row, first, scratch);
    for (int32_t o = 0; o < k->outputs; ++o) {
        int32_t sums[4] = {k->bias[o], 0, 0, 0};
        list = pj_gather_sums(list, scratch, step, sums);
        pj_gather_finish(k, o, sums, count, y + o);
    }
}

static void pj_gather(const pj_conv_t *k, const int8_t *x, int8_t *y, int8_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; at += 4) {
            const int32_t count = k->columns - at < 4 ? k->columns - at : 4;
            pj_gather_tile(k, x, row, at, count, y, scratch);
            y += count * k->outputs;
        }
    }
}
