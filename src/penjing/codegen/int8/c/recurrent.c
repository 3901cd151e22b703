/* GRU, LSTM and tanh RNN: int8 matrices and states, gates in 16 bits. Sums come to 12 fractional
 * bits, gates have 15; a GRU keeps its state and an LSTM its cell in `kept`, 16 bits each. */
typedef struct {
    const int8_t *input, *state;
    const int32_t *input_bias, *state_bias, *input_multiplier, *state_multiplier;
    const int8_t *input_shift, *state_shift;
    const int16_t *sigmoid, *tanh;
    int32_t steps, inputs, hidden, reverse, cell_bits;
} pj_recurrent_t;

static inline int32_t pj_16(int32_t x) {
    return x < -32768 ? -32768 : x > 32767 ? 32767 : x;
}

static inline int32_t pj_half_up(int32_t x, int32_t n) {
    return n > 0 ? (x + ((int32_t)1 << (n - 1))) >> n : x;
}

static inline int32_t pj_between(const int16_t *table, int32_t x) {
    const int32_t size = x < 0 ? -x : x, place = size > 32767 ? 32767 : size;
    const int32_t left = table[place >> 7], right = table[(place >> 7) + 1];
    return left + (((right - left) * (place & 127) + 64) >> 7);
}

static inline int32_t pj_tanh(const pj_recurrent_t *r, int32_t x) {
    const int32_t y = pj_between(r->tanh, x);
    return x < 0 ? -y : y;
}

static int32_t pj_into_gate(const int8_t *w, const int8_t *x, int32_t n, int32_t sum,
                            int32_t multiplier, int32_t shift) {
    for (int32_t i = 0; i < n; ++i) {
        sum += w[i] * x[i];
    }
    return pj_16(pj_scale(sum, multiplier, shift));
}

static inline int32_t pj_read(const pj_recurrent_t *r, const int8_t *x, int32_t row) {
    return pj_into_gate(r->input + row * r->inputs, x, r->inputs, r->input_bias[row],
                        r->input_multiplier[row], r->input_shift[row]);
}

/* Without a state before the first step there is NULL, which is as good as zeros. */
static inline int32_t pj_recall(const pj_recurrent_t *r, const int8_t *h, int32_t row) {
    return pj_into_gate(r->state + row * r->hidden, h, h == NULL ? 0 : r->hidden,
                        r->state_bias[row], r->state_multiplier[row], r->state_shift[row]);
}
