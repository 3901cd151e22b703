/* Convolution over volumes: what a result reads, plane by plane, is one column of bytes. */
typedef struct {
    const pj_conv_t *plane;
    int32_t planes, results;              /* of the input and of the output */
    int32_t depth, stride, dilation, front;
    int32_t spans, each, made; /* runs of a column that an output reads, their length; outputs of
                                  a group */
} pj_volume_t;

static void pj_volume_column(const pj_volume_t *v, const int8_t *x, int32_t plane, int32_t pixel,
                             int8_t *to) {
    const pj_conv_t *const k = v->plane;
    const int32_t size = k->height * k->width * k->channels;
    const int32_t bytes = k->kernel_height * k->kernel_width * k->channels;
    int32_t at = plane * v->stride - v->front;
    for (int32_t d = 0; d < v->depth; ++d, at += v->dilation, to += bytes) {
        if (at < 0 || at >= v->planes) {
            pj_fill(to, k->input_zero, bytes);
        } else {
            pj_column(k, x + at * size, pixel / k->columns, pixel % k->columns, to);
        }
    }
}

static void pj_volume(const pj_volume_t *v, const int8_t *x, int8_t *y, int8_t *column) {
    const pj_conv_t *const k = v->plane;
    const int32_t pixels = k->rows * k->columns;
    for (int32_t i = 0; i < v->results * pixels; ++i) {
        const int8_t *w = k->weight;
        pj_volume_column(v, x, i / pixels, i % pixels, column);
        for (int32_t o = 0; o < k->outputs; ++o) {
            const int8_t *from = column + o / v->made * v->each;
            int32_t sum = k->bias[o];
            for (int32_t s = 0; s < v->spans; ++s, from += k->channels, w += v->each) {
                for (int32_t c = 0; c < v->each; ++c) {
                    sum += from[c] * w[c];
                }
            }
            *y++ = pj_finish(k, o, sum);
        }
    }
}
