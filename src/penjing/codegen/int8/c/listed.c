/* A convolution whose weights are written small: apart from each other, which are there (`places`,
 * once for a bundle of outputs) and what they are (`conv.weight`: bytes, or codes of a few bits). */
typedef struct {
    pj_conv_t conv; /* first, since tiles are given its address */
    const uint8_t *places;
    const int8_t *book;      /* values by code; NULL where values are bytes */
    const uint16_t *offsets; /* of the inputs of shapes of cells, behind where each one's begin */
    int32_t rows, run;       /* of the kernel, and inputs of a row */
    int32_t cells, apart;    /* of a row, and inputs from one to the next */
    int16_t bundle, bits;    /* outputs that share places, and bits of the code of a cell */
} pj_listed_t;

typedef struct {
    const uint8_t *place;
    int32_t cell, value; /* numbers of the next ones */
} pj_reader_t;

PJ_ALWAYS int32_t pj_code(const uint8_t *codes, int32_t n, int32_t bits) {
    const uint32_t at = (uint32_t)n * (uint32_t)bits;
    return codes[at >> 3] >> (at & 7) & ((1 << bits) - 1);
}

/* The next weight times an input of one pixel, or of four that are `step` apart. */
PJ_ALWAYS pj_four_t pj_times(const pj_listed_t *k, pj_reader_t *r, int bits, const int8_t *x,
                             int32_t step, int pixels, pj_four_t s) {
    const int8_t *const values = k->conv.weight;
    const int32_t n = r->value++;
    const int32_t w =
        bits == 8 ? values[n] : k->book[pj_code((const uint8_t *)values, n, bits)];
    s.a += w * x[0];
    if (pixels > 1) {
        s.b += w * x[step];
        s.c += w * x[2 * step];
        s.d += w * x[3 * step];
    }
    return s;
}
