// What broker and agent share of a target's memory. Home: pure *.
//
// "Outside in" (docs/decisions/0001): nothing in a target listens. The broker stops the target and
// writes everything from outside: the arena (private memory, a MAP_PRIVATE memfd named kArenaName,
// so that a process with an agent is known from /proc/PID/maps), the site table (anonymous,
// MADV_WIPEONFORK), trampolines, code mappings. The agent only reads them, and speaks first, on its
// channel, in six cases (AgentSays).
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "abi/process_info.hpp"
#include "abi/thread_block.hpp"

namespace bpftime {

inline constexpr uint32_t kAgentMagic = 0x74667062;  // "bpft"
inline constexpr uint32_t kAgentVersion = 2;
inline constexpr char kArenaName[] = "bpftime-arena";
inline constexpr char kAgentName[] = "bpftime-agent";
inline constexpr char kCodeName[] = "bpftime-code";
inline constexpr char kMapName[] = "bpftime-map";
inline constexpr char kAliveName[] = "bpftime-alive";
inline constexpr uint64_t kArenaBytes = 64ULL << 20;  // sparse address space
inline constexpr uint32_t kMaxSites = 1U << 16;

// One patched place. In the table, which a fork wipes: null pointers then, which the thunks test
// anyway.
struct Site {
  std::atomic<const struct AttachedList*> on_entry;   // +0
  std::atomic<const struct AttachedList*> on_return;  // +8
  uint64_t address;                                   // +16 of the probed instruction (get_func_ip)
  uint64_t reserved;                                  // +24 1: a function begins there
};
static_assert(sizeof(Site) == 32 && offsetof(Site, on_return) == 8 &&
              offsetof(Site, address) == 16);

// Site 0 of the table is never a site: it is this guard, so that a wiped table is known.
inline constexpr uint64_t kTableGuard = 0x656c626174667062ULL;

// A word that the kernel changes when the broker dies: a robust futex of the broker's main thread,
// on a page that targets map read-only. Alive while word == expected.
struct AlivePage {
  std::atomic<uint32_t> word;
};

// counts of one link in one process; shared with the broker (HOSTILE for the broker)
struct HitCounts {
  std::atomic<uint64_t> run, missed, faulted, out_of_fuel;
  std::atomic<uint64_t> disarmed;  // HitEnd that disarmed it; 0 = armed
  std::atomic<uint64_t> ns;        // that the runs took, where they are timed
};
static_assert(sizeof(HitCounts) == 48);

inline constexpr uint32_t kAttachedInternal =
    1;  // `program` is an agent function: uint64_t (void* regs, Hit*); it sets ProbeHit::answer
inline constexpr uint32_t kAttachedCounted =
    2;  // count each run in counts->run: a locked add, 5 ns

inline constexpr uint32_t kAttachedAlone = 4;    // its list has kListPlain or kListSimple
inline constexpr uint32_t kAttachedSession = 8;  // of a session link: AgentDescriptor::run_session
inline constexpr uint32_t kAttachedReturnOnly =
    16;  // of a session link that asked for returns alone

struct Attached {
  uint64_t (*program)(void* ctx, struct Hit* hit);
  const uint64_t* slots;
  HitCounts* counts;
  uint64_t cookie;
  uint32_t link, flags;
  const struct CodeRange* code;  // for the fault handler
};
// Facts of all programs of a list, found by the broker: what the hit path may leave out.
enum ListFlags : uint32_t {
  // One program, not internal and not counted, that calls no helper, counts no fuel, takes at most
  // kPlainStackBytes of stack and of its context reads only what kPlainEntryWords
  // (kPlainReturnWords) names: hook calls it itself, on the target's stack, with ThreadBlock::regs and
  // ThreadBlock::hit_space; registers that a callee keeps are not saved.
  kListPlain = 1,
  // The same but for helpers and stack: it runs on the hit stack.
  kListSimple = 2,
  // Beside kListPlain: the program neither changes r8 to r11 nor reads them in its context.
  kListFew = 4,
  // Beside kListPlain: the program reads memory in its own code and takes the hit stack where that is
  // slow; it is plain only where the thread's stack is known to be an ordinary one.
  kListReads = 8,
};
inline constexpr uint32_t kPlainStackBytes = 64;  // its return address counted
// Bit n: the n-th register of struct pt_regs (asm/ptrace.h) is there for a plain program.
inline constexpr uint32_t kPlainAlways = 1U << 15 | 1U << 17 | 1U << 20;  // orig_rax, cs, ss
inline constexpr uint32_t kPlainEntryWords =
    kPlainAlways | 0x3c0 | 0x7000;  // r11 r10 r9 r8 rdx rsi rdi
inline constexpr uint32_t kPlainReturnWords =
    kPlainAlways | 0x780 | 0x7000;             // r10 r9 r8 rax rdx rsi rdi
inline constexpr uint32_t kMoreWords = 0x3c0;  // r11 r10 r9 r8: not there at entry where kListFew
// Immutable once published, but for `flags`, which a program that is disarmed sets to 0; replaced as
// a whole by one store. `count` items follow, in attach order.
struct AttachedList {
  uint32_t count, flags;   // ListFlags
  const AlivePage* alive;  // programs run while its word is `alive_expected`
  uint32_t alive_expected, reserved;
  struct AgentState* state;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
  Attached items[];
#pragma GCC diagnostic pop
};
static_assert(sizeof(AttachedList) == 32);

// One program's code in this process, for the fault handler: an ip in [begin, end) resumes at
// resume.
struct CodeRange {
  uint64_t begin, end, resume;
  uint64_t reads;  // ReadFixup[read_count] (vm/program.hpp), offsets from `begin`
  uint64_t read_count;
};

// A program that others call at their end (PROG_ARRAY): immutable, in the arena.
struct TailTarget {
  uint64_t (*program)(void* ctx, struct Hit* hit);
  const uint64_t* slots;
  const CodeRange* code;
};
inline constexpr uint32_t kMostTailCalls = 33;  // of one run; kernel: MAX_TAIL_CALL_CNT

// Journal of what was overwritten, so that a later broker, or the same one after a fork, can
// restore it. Append only; an entry whose `after` is no longer in place is stale and skipped.
struct JournalEntry {
  uint64_t address;
  uint32_t bytes, reserved;
  uint8_t before[16], after[16];
};
static_assert(sizeof(JournalEntry) == 48);

// What the broker mapped beside image, arena and blocks; so that a later broker can unmap it.
struct MappedRange {
  uint64_t begin, bytes;
};

// First page of the arena.
struct AgentState {
  uint32_t magic, version;
  uint64_t agent_base, agent_bytes;  // image
  uint64_t arena_bytes;
  Site* table;
  uint32_t table_sites, site_count;  // as many as there may be; as were ever used, and site 0
  const AlivePage* alive;            // null = not yet armed: hits pass through
  uint32_t alive_expected;
  uint32_t tgid;    // as the kernel numbers it in the target's own pid namespace
  uint32_t owner;   // OwnerId
  int32_t channel;  // the agent's end, SOCK_SEQPACKET; checked by inode before each use
  uint64_t channel_inode;
  uint32_t tcb_tid_offset;  // fs:offset holds the tid (glibc, musl); 0 = unknown
  uint32_t rseq_offset_valid;
  int64_t rseq_offset;               // fs-relative struct rseq
  uint32_t use_gs;                   // 0: find the block by hash of the fs base
  uint32_t fs_self_pointer;          // 1: %fs:0 is the fs base (glibc, musl)
  std::atomic<ThreadBlock*> blocks;  // list through next_block
  std::atomic<uint32_t> block_count;
  uint32_t signals_owned;       // bit signo: our action is installed
  uint64_t old_actions[65][4];  // struct kernel sigaction {handler, flags, restorer, mask}
  std::atomic<uint32_t> fork_lock;
  std::atomic<uint32_t> disarmed;  // the agent disarmed itself; why = errno
  uint64_t generation;             // + 1 at each change of sites or mappings
  uint32_t image_way;              // AgentWay: 1 dlopen, 2 mapped
  uint32_t gs_was_set;             // threads' gs bases are ours to put back to 0
  uint64_t image_handle;           // of dlopen
  uint64_t mappings;               // MappedRange[]
  std::atomic<uint64_t> mapping_count;
  uint64_t journal;  // JournalEntry[]
  std::atomic<uint64_t> journal_count;
  uint64_t code_ranges;  // CodeRange[]
  std::atomic<uint64_t> code_range_count;
  ProcessInfo process;   // what helpers ask for
  uint32_t no_fsgsbase;  // 1: rdfsbase faults (kernel before 5.9): arch_prctl instead
  uint32_t reserved_word;
  uint64_t libc_restorer;  // what the target's libc gives the kernel as sa_restorer; 0 = not known
  std::atomic<ThreadBlock*> block_hash[1024];  // by fs base, open addressing
  std::atomic<uint64_t> semaphore_count;       // addresses that are raised; 0 = lowered again
};

// ---- The agent image
// ------------------------------------------------------------------------------------- The one
// exported symbol, `bpftime_agent_descriptor`: read by the broker from its own copy of the file.
// Every pointer is an address inside the image (relocated with it).
struct AgentDescriptor {
  uint32_t magic, version;
  AgentState** state;      // the image's one variable: where the arena is
  void (*entry_thunk)();   // trampolines of entry-only sites go here (abi/trampoline.hpp)
  void (*return_thunk)();  // trampolines of sites with a return probe
  void (*return_point)();  // the address that hooked functions return to
  void (*inside_thunk)();  // sites inside a function: flags and red zone live
  void (*fault_handler)(int, void*, void*);  // SIGSEGV, SIGBUS action
  void (*signal_restorer)();
  uint64_t (*on_libraries)(void* regs, struct Hit* hit);  // internal program for _dl_debug_state
  uint64_t (*on_sigaction)(void* regs, struct Hit* hit);  // internal program for libc's sigaction
  // Stands for a program while BPF_ENABLE_STATS is on: runs the one whose address lies before its slots, takes its time.
  uint64_t (*run_timed)(void* regs, struct Hit* hit);
  const void* helpers;  // HelperEntry[*helper_count]
  const uint32_t* helper_count;
  ThreadBlock* nobody;  // the shared block whose owner never matches
  // The same four for processes where gs is not ours (AgentState::use_gs == 0): those above read %gs.
  void (*entry_thunk_hashed)();
  void (*return_thunk_hashed)();
  void (*return_point_hashed)();
  // Stands for the program of a session link, whose address lies before its slots.
  uint64_t (*run_session)(void* regs, struct Hit* hit);
  // The same for one that makes tail calls.
  uint64_t (*run_tail_calls)(void* regs, struct Hit* hit);
  void (*inside_thunk_hashed)();
  void (*read_aside)();                              // what programs call for SlotKind::kReadAside
  uint64_t (*on_exec)(void* regs, struct Hit* hit);  // internal program for libc's execve
};
struct HelperEntry {
  uint64_t id;
  void* function;
};

// ---- What the agent says (datagrams on the channel)
// ----------------------------------------------------------
enum class AgentSays : uint32_t {
  kForked = 1,  // from a child, on the inherited channel, its own new channel's broker end beside
                // it; waits
  kLibraries = 2,  // link map changed; waits for one byte, at most kAgentWaitMs
  kPrintk = 3,     // `text` follows; never waits, dropped when the queue is full
  kDisarmed = 4,   // `value` = link, `code` = HitEnd
  kWake = 5,  // `value` = map: a reader waits on a descriptor for what was written; never waits
  kExec = 6,  // about to execve what `text`, 8 bytes, says the address of; waits as kLibraries does
};
struct AgentMessage {
  uint32_t magic;
  AgentSays says;
  uint32_t pid, tid;
  uint64_t value;
  uint32_t code, text_bytes;
  uint64_t time_ns;
  char comm[16];
  char text[976];
};
static_assert(sizeof(AgentMessage) == 1032);
inline constexpr int kAgentWaitMs = 1000;

}  // namespace bpftime
