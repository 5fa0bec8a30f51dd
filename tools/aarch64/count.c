/* A QEMU plugin that counts the instructions which a program executes, all and by kind.
 *
 *   cc -shared -fPIC -o count.so count.c
 *   qemu-aarch64 -plugin ./count.so -d plugin PROGRAM
 *
 * The kinds are those that multiply eight-bit numbers, so that one sees which of a library's kernels
 * ran. Whenever the program yields the processor (sched_yield), which few programs do by themselves, a
 * line of JSON says what was counted so far. Exact for one thread. Written against version 1 of QEMU's plugin interface,
 * whose header Debian 12 does not ship: hence the declarations.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { INLINE_ADD_U64 = 0, SCHED_YIELD = 124 /* of Linux on AArch64 */ };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(
    uint64_t id, void (*translated)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_insn_exec_inline(
    struct qemu_plugin_insn *instruction, int operation, void *counter, uint64_t addend);
void qemu_plugin_register_vcpu_syscall_cb(
    uint64_t id, void (*called)(uint64_t id, unsigned int processor, int64_t number, uint64_t first,
                                uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_outs(const char *text);

int qemu_plugin_version = 1;

/* What the Arm Architecture Reference Manual fixes in each encoding, size and registers left out. */
static struct kind {
    const char *name;
    uint32_t mask, bits;
    uint64_t count;
} kinds[] = {
    {"udot", 0xbfe0fc00, 0x2e809400, 0},
    {"sdot", 0xbfe0fc00, 0x0e809400, 0},
    {"udot_lane", 0xbfc0f400, 0x2f80e000, 0},
    {"sdot_lane", 0xbfc0f400, 0x0f80e000, 0},
    {"usdot", 0xbfe0fc00, 0x0e809c00, 0},
    {"usdot_lane", 0xbfc0f400, 0x0f80f000, 0},
    {"ummla", 0xffe0fc00, 0x6e80a400, 0},
    {"smmla", 0xffe0fc00, 0x4e80a400, 0},
    {"usmmla", 0xffe0fc00, 0x4e80ac00, 0},
    {"umull", 0xbf20fc00, 0x2e20c000, 0},
    {"smull", 0xbf20fc00, 0x0e20c000, 0},
    {"umlal", 0xbf20fc00, 0x2e208000, 0},
    {"smlal", 0xbf20fc00, 0x0e208000, 0},
    {"umlal_lane", 0xbf00f400, 0x2f002000, 0},
    {"smlal_lane", 0xbf00f400, 0x0f002000, 0},
};
enum { KINDS = sizeof kinds / sizeof *kinds };
static uint64_t all;

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    for (size_t index = 0; index < qemu_plugin_tb_n_insns(block); index++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, index);
        uint32_t word;

        memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
        qemu_plugin_register_vcpu_insn_exec_inline(instruction, INLINE_ADD_U64, &all, 1);
        for (size_t kind = 0; kind < KINDS; kind++)
            if ((word & kinds[kind].mask) == kinds[kind].bits)
                qemu_plugin_register_vcpu_insn_exec_inline(
                    instruction, INLINE_ADD_U64, &kinds[kind].count, 1);
    }
}

static void called(uint64_t id, unsigned int processor, int64_t number, uint64_t a, uint64_t b,
                   uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    char line[1024];
    int used = snprintf(line, sizeof line, "{\"all\": %" PRIu64, all);

    (void)id, (void)processor, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != SCHED_YIELD)
        return;
    for (size_t kind = 0; kind < KINDS; kind++)
        used += snprintf(line + used, sizeof line - (size_t)used, ", \"%s\": %" PRIu64,
                         kinds[kind].name, kinds[kind].count);
    snprintf(line + used, sizeof line - (size_t)used, "}\n");
    qemu_plugin_outs(line);
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
