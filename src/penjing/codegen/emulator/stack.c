/* How deep the stack of a network goes: all below the caller is painted, the network runs once, and
 * the lowest word that has changed is looked for. Interrupts are off meanwhile. */
#include <stdint.h>
#include <stdio.h>

#include "net.h"

#define WORDS 16384
#define PAINT 0xA5C35A3Cu

static union {
    int8_t bytes[NET_ARENA_BYTES];
    uint64_t align;
} arena;

int main(void) {
    volatile uint32_t *top;
    int deepest = WORDS;
    __asm__ volatile("cpsid i\n mov %0, sp" : "=r"(top)::"memory");
    for (int i = 1; i <= WORDS; ++i) top[-i] = PAINT;
    net_run(arena.bytes);
    while (deepest > 0 && top[-deepest] == PAINT) --deepest;
    __asm__ volatile("cpsie i" ::: "memory");
    printf("%lu\n", (unsigned long)deepest * sizeof *top);
    return deepest == WORDS;
}
