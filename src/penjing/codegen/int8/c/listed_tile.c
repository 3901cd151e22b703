static void @NAME@(const pj_conv_t *conv, const int8_t *x, int32_t row, int32_t first,
                   int32_t count, int8_t *y, int8_t *scratch) {
    const pj_listed_t *const k = (const pj_listed_t *)(const void *)conv;
    const int32_t step = conv->stride_width * conv->channels;
    pj_reader_t r = {k->places, 0, 0};
@WINDOW@
    for (int32_t o = 0; o < conv->outputs;) {
        const pj_reader_t bundle = r;
        for (int32_t i = 0; i < k->bundle; ++i, ++o) {
            r.place = bundle.place;
            r.cell = bundle.cell;
            const pj_four_t bias = pj_four(conv->bias[o]);
            pj_store_four(conv, o, @WALK@(k, &r, @BITS@, x, step, @PIXELS@, bias), count, y);
        }
    }
}
