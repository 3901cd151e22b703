/* Dense convolution, sixteen outputs of several pixels at a time. The input is first copied with
 * its frame, so that what one row of the kernel reads is one run of bytes. Weights lie by sixteen
 * outputs, by rows of the kernel, by four bytes of a run; runs are filled up with zeros. Where
 * zeros are left out, they lie by 64 bytes of a run instead, as so many steps of `pick`. */
typedef struct {
    const int8_t *weight;
    const uint8_t *steps; /* of every 64 bytes of a run; NULL where there are no picks */
    const int32_t *bias, *flipped, *multiplier, *shift; /* filled up to sixteens */
    int32_t height, width, channels;    /* of the input */
    int32_t rows, columns, outputs;     /* of the output */
    int32_t tall, wide, top, left;      /* the framed input, and where the input lies in it */
    int32_t kernel_height, run, reach;  /* bytes of a run, and from row to row of the kernel */
    int32_t down, right;                /* bytes from pixel to pixel */
    int8_t input_zero, zero, low, high;
} pj_wide_t;

static void pj_frame(const pj_wide_t *k, const int8_t *x, int8_t *to) {
    const int32_t row = k->wide * k->channels, inside = k->width * k->channels;
    const int32_t before = k->left * k->channels;
    const int8_t flip = (int8_t)(PJ_FLIP ? -128 : 0), zero = (int8_t)(k->input_zero ^ flip);
    memset(to, zero, (size_t)(k->tall * row + 64));
    const int32_t fit = row - before < inside ? row - before : inside;
    for (int32_t i = 0; i < k->height && k->top + i < k->tall; ++i, x += inside) {
        int8_t *const line = to + (k->top + i) * row + before;
        for (int32_t j = 0; j < fit; ++j) {
            line[j] = (int8_t)(x[j] ^ flip);
        }
    }
}

#define PJ_ALWAYS_WIDE static inline __attribute__((always_inline))
PJ_ALWAYS_WIDE const int8_t *pj_wide_sums(const pj_wide_t *k, const int8_t *w, const int8_t *x,
                                          int32_t pixels, pj_sums *sums) {
    for (int32_t i = 0; i < k->kernel_height; ++i, x += k->reach) {
        for (int32_t j = 0; j < k->run; j += 4, w += 64) {
            for (int32_t p = 0; p < pixels; ++p) {
                sums[p] = pj_sums_dot(sums[p], w, x + p * k->right + j);
            }
        }
    }
    return w;
}

PJ_ALWAYS_WIDE const int8_t *pj_picked_sums(const pj_wide_t *k, const int8_t *w,
                                            const uint8_t **steps, const int8_t *x,
                                            int32_t pixels, pj_sums *sums) {
    const uint8_t *next = *steps;
    for (int32_t i = 0; i < k->kernel_height; ++i, x += k->reach) {
        for (int32_t j = 0; j < k->run; j += 64) {
            pj_bytes own[PJ_PIXELS];
            for (int32_t p = 0; p < pixels; ++p) {
                own[p] = pj_bytes_load(x + p * k->right + j);
            }
            for (int32_t n = *next++; n > 0; --n, w += 128) {
                for (int32_t p = 0; p < pixels; ++p) {
                    sums[p] = pj_sums_pick(sums[p], w, own[p]);
                }
            }
        }
    }
    *steps = next;
    return w;
}

/* `pixels` is constant where this is inlined; `count` of them are stored. */
PJ_ALWAYS_WIDE void pj_wide_tile(const pj_wide_t *k, const int8_t *x, int32_t pixels,
                                 int32_t count, int8_t *y) {
    const int8_t *w = k->weight;
    const uint8_t *steps = k->steps;
    for (int32_t o = 0; o < k->outputs; o += 16) {
        pj_sums sums[PJ_PIXELS];
        for (int32_t p = 0; p < pixels; ++p) {
            sums[p] = pj_sums_zero();
        }
        w = steps ? pj_picked_sums(k, w, &steps, x, pixels, sums)
                  : pj_wide_sums(k, w, x, pixels, sums);
        const pj_lanes bias = pj_lanes_load((PJ_FLIP ? k->flipped : k->bias) + o);
        const pj_lanes multiplier = pj_lanes_load(k->multiplier + o);
        const pj_lanes shift = pj_lanes_load(k->shift + o);
        const int32_t most = k->outputs - o < 16 ? k->outputs - o : 16;
        for (int32_t p = 0; p < pixels; ++p) {
            const pj_lanes sum = pj_lanes_plus(pj_sums_fold(sums[p]), bias);
            const pj_lanes q = pj_lanes_scale(sum, multiplier, shift);
            int8_t *const to = y + p * k->outputs + o;
            if (p < count) {
                pj_lanes_store_of(q, k->zero, k->low, k->high, to, most);
            }
        }
    }
}

static void pj_wide_row(const pj_wide_t *k, const int8_t *x, int8_t *y) {
    int32_t at = 0;
    for (; at + PJ_PIXELS / 2 < k->columns; at += PJ_PIXELS) {
        const int32_t left = k->columns - at;
        pj_wide_tile(k, x + at * k->right, PJ_PIXELS, left, y + at * k->outputs);
    }
    for (; at + 1 < k->columns; at += PJ_PIXELS / 2) {
        const int32_t left = k->columns - at;
        pj_wide_tile(k, x + at * k->right, PJ_PIXELS / 2, left, y + at * k->outputs);
    }
    if (at < k->columns) {
        pj_wide_tile(k, x + at * k->right, 1, 1, y + at * k->outputs);
    }
}

static void pj_wide(const pj_wide_t *k, const int8_t *x, int8_t *y, int8_t *framed) {
    pj_frame(k, x, framed);
    for (int32_t row = 0; row < k->rows; ++row, y += k->columns * k->outputs) {
        pj_wide_row(k, framed + row * k->down, y);
    }
}
