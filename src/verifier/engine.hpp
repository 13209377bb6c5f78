// The inside of verify(): one Engine a call. Home: pure; only this room includes it.
//
// Parts, each a file of member functions: prepare (functions, flow, static liveness), explore (paths, pruning, loops),
// compare (is a state covered by an older one), precise (which scalars pruning must respect), alu, jump, stack, memory,
// packet, structure (by BTF), tracing_context, call (helpers), argument, result, function, callback, exception, owned (objects of the program),
// graph (lists and trees of them), reference, dynptr, kfunc (kernel functions), kfunc_argument, iterator, learn, log.
//
// A check returns false when the program is refused; the reason is in `verdict_` then.
#pragma once
#include <cstdarg>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "btf/fields.hpp"
#include "isa/program.hpp"
#include "spec/context.hpp"
#include "spec/kfunc.hpp"
#include "spec/newer.hpp"
#include "spec/prototype.hpp"
#include "verifier/state.hpp"
#include "verifier/verifier.hpp"

namespace bpftime {
inline namespace verifier_inside {  // other rooms have a State and a Frame of their own

inline constexpr int kMostStack = 512;
inline constexpr int64_t kMostOffset = 1LL << 29;  // kernel: BPF_MAX_VAR_OFF
inline constexpr uint32_t kMostMemory = 1U << 29;  // kernel: BPF_MAX_VAR_SIZ

// What a load or store goes through.
struct AccessKind {
  RegKind kind = RegKind::kNone;
  uint32_t socket = 0;  // SocketKind
};

// What is known of an instruction before any path is walked.
struct InsnFacts {
  uint16_t live = 0;  // registers that some path reads before it writes them
  bool is_prune_point = false, is_checkpoint = false;
  bool calls_callback = false, is_iterator_next = false;
  bool seen = false;
  uint32_t function = 0;
  int32_t map = -1;   // map loads
  AccessKind access;  // on the first path
  // Stack slots (of the frame that runs it) that any walk of it read, or surely wrote whole.
  uint64_t stack_reads = 0, stack_writes = ~0ULL;
  uint64_t stack_live = 0;
};

struct FunctionFacts {
  uint32_t begin = 0, end = 0;
  std::string name;
  uint32_t type = 0;  // BTF kFunc, 0 = none
  bool is_global = false, is_called = false, is_referenced = false;
  bool changes_packet = false, sleeps = false;
  uint32_t stack_bytes = 0;
  std::vector<uint32_t> callees;
  std::vector<uint32_t> callbacks;  // functions that it names
  bool runs_later = false;          // as a callback, on a stack of its own
  bool runs_as_callback = false, may_throw = false;
};

// What a helper or kfunc call gathered of its arguments.
struct CallArgs {
  int32_t map = -1;  // index
  uint32_t map_uid = 0;
  uint32_t ref = 0;  // of the argument that is released, or of the socket
  uint64_t alloc_size = 0;
  uint64_t size_min = 0;
  int64_t size_max = -1;  // of the last kSize
  uint32_t size_count = 0;
  uint32_t function = 0;  // callback: first instruction
  bool has_function = false;
  int release_reg = -1;
  Reg dynptr;  // of the last kDynptr argument
  DynptrKind dynptr_kind = DynptrKind::kNone;
  bool dynptr_read_only = false;
  const BtfField* field = nullptr;
  const Btf* field_types = nullptr;  // whose types the field is of
  uint32_t const_key = 0;
};

// What a parameter of a kernel function asks for, where it is a pointer.
enum class KfuncParam : uint8_t {
  kUnknown,
  kContext,
  kObject,  // a structure of the kernel's
  kMemory,
  kSizedMemory,  // the next argument says how much
  kConstString,
  kDynptr,
  kNewDynptr,
  kIterator,
  kCallback,
  kMap,
  kIrqFlag,
  kLock,
  kTimer,
  kWorkqueue,
  kTaskWork,
  kAllocated,
  kRefcounted,
  kListHead,
  kListNode,
  kTreeRoot,
  kTreeNode,
};

// Where an iterator lies: slot `first` of the frame has its lowest address, `count` slots it all.
struct IteratorPlace {
  uint8_t frame = 0;
  int first = 0, count = 0;
  uint32_t type = 0;  // of the kernel's BTF
};

// A call of a kernel function, and what its arguments told.
struct KfuncCall {
  const KfuncSpec* spec = nullptr;
  BtfType proto;
  std::vector<BtfParameter> parameters;
  CallArgs args;
  uint64_t constant = 0;  // of the argument that has to be one
  IteratorPlace iterator;
  const BtfField* root = nullptr;  // of a list or tree
  Reg object;                      // the program's, as it is before the call
  Reg result;                      // set by a rule
  int new_dynptr = -1;             // the register that says where it shall be
  DynptrKind first_dynptr = DynptrKind::kNone;
  IteratorPlace irq_flag;  // one slot
};

// What a read of a structure finds.
struct FieldWalk {
  bool is_pointer = false, through_union = false, is_at_begin = false;
  uint32_t pointee = 0;
  std::string_view name;  // of the member that is no structure
};

// One load or store through a register. `value_reg` < 0: what is written is no register's.
struct Access {
  int regno;
  int64_t off;
  int size;
  bool is_write;
  const Reg* value;  // of a write
  int value_reg;
  bool is_signed;
};

// A conditional jump and its operands as they are before it.
struct Comparison {
  const bpf_insn& insn;
  uint8_t op;
  bool is_half, has_reg, is_same_reg;
  uint32_t target;
  Reg dst, src;
};

// Of data that moves when the packet changes; of a packet whose bytes a write through it may move.
constexpr bool is_of_packet(DynptrKind kind) {
  return kind == DynptrKind::kSkb || kind == DynptrKind::kXdp || kind == DynptrKind::kSkbMeta;
}
constexpr bool is_of_skb(DynptrKind kind) {
  return kind == DynptrKind::kSkb || kind == DynptrKind::kSkbMeta;
}

enum class Exactness : uint8_t { kNotExact, kRangeWithin, kExact };

// Ids of the older state and their partners in the newer one, in one comparison.
struct IdMap {
  std::vector<std::pair<uint32_t, uint32_t>> pairs;
  uint32_t next_temporary = 0x80000000;
  bool match(uint32_t older, uint32_t newer);
  bool match_scalar(uint32_t older, uint32_t newer);
};

struct PreciseSet {
  std::vector<uint16_t> regs;  // by frame
  std::vector<uint64_t> slots;
  [[nodiscard]] bool empty() const {
    for (size_t i = 0; i < regs.size(); ++i) {
      if (regs[i] != 0 || slots[i] != 0) {
        return false;
      }
    }
    return true;
  }
};

namespace testing {
class EngineProbe;
}

class Engine {
  friend class testing::EngineProbe;

 public:
  Engine(const VerifierProgram& program, const VerifyOptions& options)
      : program_(program), options_(options) {}
  Verdict run();

 private:
  // ---- log.cpp ----
  __attribute__((format(printf, 3, 4))) bool refuse(int error, const char* format, ...);
  bool too_complex(const char* why);
  __attribute__((format(printf, 2, 3))) void log(const char* format, ...);
  void log_text(const std::string& text);
  void log_state(const State& state, bool all);
  void log_insn(uint32_t insn);
  void log_change();
  std::string describe(const Reg& reg) const;
  std::string describe_num(const Scalar& num, bool with_signed_lead) const;
  std::string describe_slot(const StackSlot& slot) const;
  void explain();
  const char* kind_name(const Reg& reg) const;
  [[nodiscard]] bool wants_log() const {
    return (options_.log_level & (kLogBrief | kLogStates)) != 0;
  }

  // ---- prepare.cpp ----
  bool prepare();
  bool find_maps();
  bool check_program_type();
  bool check_map_fits(uint32_t index);
  bool check_kfuncs_exist();
  bool find_functions();
  bool check_flow();
  void find_live_registers();
  void successors(uint32_t insn, std::vector<uint32_t>* to) const;
  bool check_call_depth();
  [[nodiscard]] uint32_t function_at(uint32_t begin) const;

  // ---- explore.cpp ----
  bool explore_function(uint32_t function);
  bool check_stack_depth();
  bool explore();
  bool execute(bool* ended);
  bool meet_on_path(State* old, bool* covered);
  void prune_at(State* old, State* in_progress);
  void forget_state(State* old);
  int visited();  // 0 go on, 1 covered by an older state, -1 refused
  bool push_branch(uint32_t insn, State** branch = nullptr);
  [[nodiscard]] bool jumps_back(uint32_t at) const;
  void end_path(uint64_t remaining);
  bool pop_branch();
  void store_state();
  void widen_against(State* state, const State& older);
  State* older_at(const State& state, uint32_t insn);
  void note_loop(State* target, State* current);
  struct BackEdge {
    State* target;
    std::unique_ptr<State> source;
  };
  void loop_done(State* entry);
  uint64_t count_marks(std::span<const BackEdge> edges);
  [[nodiscard]] State* loop_in_progress(const State& state) const;
  bool count_memory(const State& state, int sign);
  void touch_stack(uint8_t frame, int slot, bool is_write);
  void update_stack_liveness();
  bool check_exit(bool* ended);
  bool check_program_result(int n);

  // ---- compare.cpp ----
  bool covers(State* older, State* newer, Exactness exact);
  bool reg_covers(const Reg& older, const Reg& newer, Exactness exact, IdMap* ids);
  bool stack_covers(const State& older, const State& newer, size_t frame, Exactness exact,
                    uint64_t live, IdMap* ids);
  void forget_dead(State* state);  // for the trace: registers that pruning does not look at
  [[nodiscard]] uint16_t live_registers(const State& state, size_t frame) const;

  // ---- precise.cpp ----
  bool mark_precise(int reg);
  bool mark_slot_precise(uint8_t frame, int slot);
  bool mark_set_precise(State* from, PreciseSet set);
  bool propagate_precision(const State& older, State* newer);
  void step_back(const Step& step, PreciseSet* set, bool* give_up, uint8_t* depth);
  void mark_all_precise(State* from);

  // ---- alu.cpp ----
  bool check_alu(const bpf_insn& insn);
  void name_copies(Reg* source);
  bool check_pointer_alu(const bpf_insn& insn, Reg* dst, Reg pointer, const Reg& number,
                         bool is_dst_pointer);
  bool check_offset_sane(const Reg& reg, int regno);

  // ---- jump.cpp ----
  bool check_jump(const bpf_insn& insn);
  bool go(const Comparison& c, bool taken);
  bool branch_on_numbers(const Comparison& c);
  bool branch_on_pointers(const Comparison& c);
  void put_operands(State* state, const Comparison& c, const Scalar& dst, const Scalar& src,
                    uint64_t linked);
  void unlink_others(State* state, const Comparison& c, uint64_t linked);
  bool check_may_goto(const bpf_insn& insn);
  void mark_null(State* state, uint32_t id, bool is_null);
  void match_packet(State* state, const Reg& pointer, bool is_meta, int beyond);
  bool packet_compare(const bpf_insn& insn, State* taken, State* fallthrough);
  uint64_t find_linked(const State& state, int a, int b);
  void sync_linked(State* state, const Reg& known, uint64_t linked);

  // ---- stack.cpp ----
  bool stack_write(uint8_t frame, const Reg& pointer, int64_t off, int size, const Reg& value,
                   int value_reg);
  bool stack_write_variable(const Reg& pointer, int64_t off, int size, const Reg& value,
                            int value_reg);
  bool stack_read(const Reg& pointer, int64_t off, int size, bool is_signed, Reg* out);
  bool stack_range(int regno, const Reg& pointer, int64_t size, bool is_write, const char* what);
  StackSlot& slot_at(uint8_t frame, int slot);
  bool drop_special_slot(Frame* frame, int slot);
  void scrub(StackSlot* slot);
  bool check_spill_stays(const StackSlot& slot);
  void note_stack_depth(uint8_t frame, int64_t off);
  Step& now();

  // ---- packet.cpp ----
  bool check_packet_load(const bpf_insn& insn);
  bool check_early_ends();
  [[nodiscard]] bool gives_number(const FunctionFacts& function) const;

  // ---- memory.cpp ----
  bool check_load(const bpf_insn& insn);
  bool check_store(const bpf_insn& insn);
  bool check_atomic(const bpf_insn& insn);
  bool check_same_kind(const Reg& base);
  bool check_access(const Access& a, Reg* out);
  bool access_through(const Access& a, const Reg& base, Reg* out);
  bool access_stack(const Access& a, const Reg& base, Reg* out);
  bool access_map_value(const Access& a, const Reg& base, Reg* out);
  bool access_map(const Access& a, const Reg& base, Reg* out);
  bool access_packet(const Access& a, const Reg& base);
  bool access_socket(const Access& a, const Reg& base);
  bool access_beside_context(const Access& a, const Reg& base);
  bool access_bytes_of(const Access& a, const Reg& base, Reg* out);
  bool check_no_leak(const Access& a, const char* where);
  const BtfField* kptr_at(const Access& a, const Reg& base);
  bool check_context(const Reg& base, int regno, int64_t off, int size, bool is_write, Reg* out);
  void note_context_use(int64_t at, int size, bool is_write);
  Reg reg_of_field(const ContextField& field);
  [[nodiscard]] bool may_use_packet(PacketUse use) const {
    return context_ != nullptr && (context_->packet_use & use) != 0;
  }
  bool check_region(const Reg& base, int regno, int64_t off, int64_t size, int64_t region,
                    bool zero_allowed, const char* what);
  bool check_packet(const Reg& base, int regno, int64_t off, int64_t size);
  bool check_map_value(const Reg& base, int regno, int64_t off, int64_t size, bool is_helper);
  bool check_memory_offset(const Reg& base, int regno);
  bool check_alignment(const Reg& base, int regno, int64_t off, int size);
  bool read_constant(const Reg& base, int64_t off, int size, bool is_signed, Reg* out);
  // Memory handed to a helper.
  bool check_helper_memory(int regno, int64_t size, bool is_write, bool zero_allowed);
  bool check_size_argument(int size_reg, bool is_write, bool zero_allowed, CallArgs* args);
  const std::vector<BtfField>& fields_of(uint32_t map);

  // ---- structure.cpp ----
  bool check_btf_access(const Reg& base, int regno, int64_t off, int size, bool is_write, Reg* out);
  bool is_per_cpu_variable(uint32_t id);
  bool load_kernel_variable(uint32_t id, Reg* out);
  bool walk_structure(const Btf& btf, uint32_t type, int64_t off, int size, int regno,
                      FieldWalk* found);
  [[nodiscard]] uint16_t flags_of_field(const Reg& base, const BtfType& type,
                                        const FieldWalk& found) const;
  Reg reg_of_btf_pointer(uint32_t type, bool is_kernel, uint16_t flags);

  // ---- tracing_context.cpp ----
  bool check_tracing_context(int64_t off, int size, Reg* out);
  Reg tracing_argument(std::string_view attach_point, size_t index, uint32_t pointee);

  // ---- call.cpp ----
  bool check_call(const bpf_insn& insn);
  bool check_helper(const bpf_insn& insn);
  [[nodiscard]] bool gives_options() const;
  bool check_helper_allowed(uint32_t id, const Prototype* proto);
  bool check_together(uint32_t id, CallArgs* args);
  bool check_known_index(const CallArgs& args, bool* surely_there);
  bool settle_dynptrs(uint32_t id, const CallArgs& args);
  void clobber_caller_saved();
  void drop_packet_pointers();

  // ---- argument.cpp: each says which register is wrong in verdict_.reg ----
  bool check_argument(int regno, const ParamSpec& spec, const Prototype& proto, int index,
                      CallArgs* args);
  [[nodiscard]] bool may_take_packet(const Reg& r, const Prototype& proto) const;
  bool check_argument_kind(int regno, const ParamSpec& spec, const Prototype& proto, int index,
                           CallArgs* args);
  bool check_not_a_structure(int regno);
  bool check_map_argument(int regno, const ParamSpec& spec, const Prototype& proto, CallArgs* args);
  bool check_memory_argument(int regno, const ParamSpec& spec, const Prototype& proto, int index,
                             CallArgs* args);
  bool check_field_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                            CallArgs* args);
  bool check_record_argument(int regno, CallArgs* args);
  bool check_socket_argument(int regno, const ParamSpec& spec, CallArgs* args);
  bool check_exchanged(int regno, CallArgs* args);
  bool check_struct_argument(int regno, const Prototype& proto);
  bool check_map_use(uint32_t helper, const VerifierMap& map, const char* name);
  bool check_constant_string(int regno);
  bool check_format();
  [[nodiscard]] bool may_change_sockets(uint32_t helper) const;
  bool wrong_argument(int regno, const char* expected);

  // ---- result.cpp ----
  bool set_return(const Prototype& proto, const CallArgs& args);
  bool set_map_result(const Prototype& proto, const CallArgs& args);
  Reg socket_result(const Prototype& proto, const CallArgs& args);
  Reg struct_result(const Prototype& proto, const CallArgs& args);
  Reg kptr_result(const Prototype& proto, const CallArgs& args);

  // ---- global_function.cpp ----
  bool set_arguments(uint32_t function, bool is_main);
  bool set_pointer_argument(const FunctionFacts& function, size_t index, const BtfType& pointer);
  bool set_object_argument(const FunctionFacts& function, size_t index, const BtfType& pointee,
                           uint16_t flags);
  bool check_passed(int regno, const Reg& want);
  bool check_passed_object(int regno, const Reg& want);

  // ---- function.cpp ----
  bool check_local_call(const bpf_insn& insn);
  bool check_global_call(uint32_t function);
  bool leave_by_tail_call();

  // ---- exception.cpp ----
  bool find_exception_callback();
  bool add_exception_callback(uint32_t begin);
  [[nodiscard]] bool is_throw(const bpf_insn& insn) const;
  bool check_throw(const bpf_insn& insn, bool* ended);
  bool check_exceptions();
  bool check_callback_of_exceptions();

  // ---- owned.cpp ----
  const std::vector<BtfField>* fields_of_object(uint32_t type);
  const std::vector<BtfField>* fields_behind(const Reg& r);
  static bool is_owned(const Reg& r);
  static const BtfField* field_at(const std::vector<BtfField>& fields, int64_t at);
  bool access_object(const Access& a, const Reg& base, Reg* out);
  bool is_counted(uint32_t type);
  uint16_t non_owning(uint32_t type) {
    return static_cast<uint16_t>(kNonOwning | (is_counted(type) ? kRcu : 0));
  }
  bool disown(uint32_t ref);
  void drop_non_owning();
  bool check_owned_argument(int regno, KfuncParam param, KfuncCall* call);
  bool make_object(bool is_per_cpu, KfuncCall* call);
  void give_object(uint32_t type, uint32_t off, int flags, KfuncCall* call);
  bool run_owned_rule(KfuncCall* call);
  [[nodiscard]] bool is_own_types(const Btf* btf) const;
  bool is_kptr_of_kernel(const BtfField& field, const Btf& btf);
  [[nodiscard]] bool fits_kptr(const Reg& r, const BtfField& field, const Btf& btf) const;
  [[nodiscard]] uint16_t flags_of_object_kptr(const BtfField& field, bool is_exchanged) const;
  Reg load_kernel_kptr(const BtfField& field, const Btf& types);
  Reg load_kptr(const BtfField& field, const Btf& types);
  bool give_to_kptr(uint32_t ref);

  // ---- graph.cpp ----
  [[nodiscard]] bool in_tree_callback() const;
  static Ref lock_beside(const Reg& r);
  bool check_graph_argument(int regno, KfuncParam param, KfuncCall* call);
  bool check_root(const Reg& r, const char* what);
  bool push_less(const KfuncCall& call);
  bool run_graph_rule(KfuncCall* call);

  // ---- callback.cpp ----
  bool push_callback_now(uint32_t begin, Frame callee);
  bool push_callback_later(uint32_t begin, Frame callee);
  bool push_callback(const Prototype& proto, const CallArgs& args);
  void set_callback_arguments(const Prototype& proto, const CallArgs& args, const Frame& caller,
                              Frame* callee);

  // ---- reference.cpp ----
  bool release_reference(uint32_t ref);
  uint32_t acquire(RefKind kind, uint32_t helper = 0);
  bool check_no_references(const char* where);
  bool check_lock(bool is_unlock, const Reg& reg, int regno);

  // ---- dynptr.cpp ----
  bool check_dynptr_argument(int regno, const ParamSpec& spec, const Prototype& proto,
                             CallArgs* args);
  bool make_dynptr(int regno, DynptrKind kind, bool read_only, uint32_t ref);
  void drop_slices(uint32_t id);
  bool run_dynptr_rule(KfuncCall* call);
  bool slice_dynptr(KfuncCall* call);

  template <class Fn>
  void each_reg(State* state, Fn fn);

  // ---- kfunc.cpp ----
  // kprobe.session, uprobe.session
  [[nodiscard]] bool is_session() const {
    return is_program_type(BPF_PROG_TYPE_KPROBE) &&
           (program_.expected_attach_type == kTraceKprobeSession ||
            program_.expected_attach_type == kTraceUprobeSession);
  }
  bool check_kfunc(const bpf_insn& insn);
  [[nodiscard]] const KfuncSpec* kfunc_of(const bpf_insn& insn) const;
  bool kfunc_not_allowed(std::string_view name);
  [[nodiscard]] const char* unsleepable_region() const;
  [[nodiscard]] bool in_rcu_section() const;
  bool check_kfunc_allowed(const KfuncSpec& spec);
  bool enter_or_leave_rcu(bool enters);
  bool enter_or_leave_preemption(bool enters);
  bool run_kfunc_rule(KfuncCall* call);
  [[nodiscard]] bool is_iter() const {
    return is_program_type(BPF_PROG_TYPE_TRACING) &&
           program_.expected_attach_type == BPF_TRACE_ITER;
  }
  bool set_kfunc_result(KfuncCall* call);

  // ---- kfunc_argument.cpp ----
  [[nodiscard]] bool is_trusted(const Reg& r) const;
  [[nodiscard]] Result<BtfType> struct_behind(const Reg& r) const;
  [[nodiscard]] bool is_struct_at(const BtfType& type, int64_t at, const BtfType& wanted,
                                  bool is_strict) const;
  [[nodiscard]] KfuncParam kfunc_param(const KfuncCall& call, size_t index,
                                       const BtfType& pointee) const;
  bool check_kfunc_argument(size_t index, KfuncCall* call);
  bool check_kfunc_number(int regno, std::string_view name, KfuncCall* call);
  bool check_kfunc_pointer(int regno, KfuncParam param, const BtfType& pointee, KfuncCall* call);
  bool check_object_argument(int regno, const BtfType& wanted, const KfuncCall& call);
  bool check_kfunc_memory(int regno, int64_t size);
  bool check_sized_memory(int regno, KfuncCall* call);

  // ---- kfunc_rule.cpp ----
  bool run_cast(KfuncCall* call);
  bool run_irq_rule(KfuncCall* call);
  bool check_irq_flag(int regno, KfuncCall* call);

  // ---- iterator.cpp ----
  [[nodiscard]] bool is_iterator_next(const bpf_insn& insn) const;
  [[nodiscard]] const StackSlot* iterator_in(const Reg& pointer) const;
  bool check_iterator_argument(int regno, uint32_t type, KfuncCall* call);
  bool make_iterator(const KfuncCall& call);
  Reg iterator_element(const KfuncCall& call, const StackSlot& slot);
  bool ask_iterator(const KfuncCall& call);
  bool run_iterator(KfuncCall* call);

  // ---- learn.cpp: ProgramFacts::operands ----
  bool learn_before(uint32_t at);
  void learn_context(uint32_t at);
  void learn_access(uint32_t at);
  void learn_number(uint32_t at, uint64_t lowest, uint64_t highest);
  bool learn_divisor(uint32_t at);
  bool learn_index(uint32_t at, const Reg& key, uint32_t end);
  bool learn_call(uint32_t at, const Prototype& proto, const CallArgs& args);
  void learn_ways(uint32_t at, bool both);

  // ---- shared ----
  State& cur() { return *current_; }
  Reg& reg(int n) { return current_->top().regs[static_cast<size_t>(n)]; }
  bool check_readable(int n);
  [[nodiscard]] bool leaks_forbidden() const { return options_.no_pointer_leaks; }
  uint32_t new_id() { return ++last_id_; }
  [[nodiscard]] bool is_program_type(uint32_t type) const { return program_.prog_type == type; }
  [[nodiscard]] bool is_traced() const {  // by BTF
    return is_program_type(BPF_PROG_TYPE_TRACING) || is_program_type(BPF_PROG_TYPE_LSM);
  }
  const VerifierMap& map(uint32_t index) const { return *maps_[index]; }
  uint32_t map_index(const VerifierMap* map);

  const VerifierProgram& program_;
  const VerifyOptions& options_;
  Verdict verdict_;
  DecodedProgram code_;
  std::vector<InsnFacts> facts_;
  std::vector<FunctionFacts> functions_;
  std::vector<const VerifierMap*> maps_;
  std::vector<std::unique_ptr<std::vector<BtfField>>> map_fields_;
  std::unordered_map<uint32_t, std::unique_ptr<std::vector<BtfField>>> object_fields_;  // by type
  std::map<std::pair<const Btf*, uint32_t>, bool> kptrs_of_kernel_;
  const ContextSpec* context_ = nullptr;
  bool is_global_check_ = false;  // exploring a global function by itself
  uint32_t explored_function_ = 0;
  uint32_t exception_callback_ = 0;  // a function, 0 = none

  std::unique_ptr<State> current_;
  struct Pending {
    std::unique_ptr<State> state;
    size_t log_at;
    uint32_t from;  // the instruction that it was put aside at
  };
  std::vector<Pending> pending_;
  std::vector<std::vector<State*>> stored_;
  std::vector<std::unique_ptr<State>> all_states_;
  std::vector<BackEdge> back_edges_;
  std::vector<uint32_t> stack_dirty_;
  std::vector<std::vector<uint32_t>> predecessors_;
  uint64_t insns_since_ = 0, jumps_since_ = 0;
  uint64_t written_ = 0;  // slots of its own frame that the instruction under way wrote whole
  uint64_t pruned_remaining_ = 0;
  uint32_t prev_insn_ = 0;
  bool is_first_visit_ = false;  // no path was at the instruction under way before
  uint32_t last_id_ = 0, last_entry_ = 0;
  uint64_t memory_ = 0;
  uint32_t live_states_ = 0;
  size_t prev_line_ = SIZE_MAX;
  uint8_t cur_depth_for_log_ = 0;
  std::unique_ptr<State> logged_;  // what the log has shown last
  uint64_t helper_bits_[4] = {};
  std::vector<uint32_t> per_cpu_variables_;  // of the kernel, sorted; empty: not looked at yet
};

template <class Fn>
void Engine::each_reg(State* state, Fn fn) {
  for (Frame& frame : state->frames) {
    for (Reg& r : frame.regs) {
      fn(r);
    }
    for (StackSlot& slot : frame.slots) {
      if (slot.is_spill()) {
        const RegKind before = slot.reg.kind;
        fn(slot.reg);
        if (before != RegKind::kNone && slot.reg.kind == RegKind::kNone) {
          slot.bytes.fill(ByteKind::kInvalid);
        }
      }
    }
  }
}

}  // namespace verifier_inside
}  // namespace bpftime
