#include "spec/context_types.hpp"

#include <linux/bpf.h>

#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr ContextTypes kTypes[] = {
    {BPF_PROG_TYPE_SOCKET_FILTER, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_KPROBE, "bpf_user_pt_regs_t", "pt_regs"},
    {BPF_PROG_TYPE_SCHED_CLS, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_SCHED_ACT, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_TRACEPOINT, "", ""},
    {BPF_PROG_TYPE_XDP, "xdp_md", "xdp_buff"},
    {BPF_PROG_TYPE_PERF_EVENT, "bpf_perf_event_data", "bpf_perf_event_data_kern"},
    {BPF_PROG_TYPE_CGROUP_SKB, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_CGROUP_SOCK, "bpf_sock", "sock"},
    {BPF_PROG_TYPE_LWT_IN, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_LWT_OUT, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_LWT_XMIT, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_SOCK_OPS, "bpf_sock_ops", "bpf_sock_ops_kern"},
    {BPF_PROG_TYPE_SK_SKB, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_CGROUP_DEVICE, "bpf_cgroup_dev_ctx", "bpf_cgroup_dev_ctx"},
    {BPF_PROG_TYPE_SK_MSG, "sk_msg_md", "sk_msg"},
    {BPF_PROG_TYPE_RAW_TRACEPOINT, "bpf_raw_tracepoint_args", ""},
    {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "bpf_sock_addr", "bpf_sock_addr_kern"},
    {BPF_PROG_TYPE_LWT_SEG6LOCAL, "__sk_buff", "sk_buff"},
    {BPF_PROG_TYPE_SK_REUSEPORT, "sk_reuseport_md", "sk_reuseport_kern"},
    {BPF_PROG_TYPE_FLOW_DISSECTOR, "__sk_buff", "bpf_flow_dissector"},
    {BPF_PROG_TYPE_CGROUP_SYSCTL, "bpf_sysctl", "bpf_sysctl_kern"},
    {BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, "bpf_raw_tracepoint_args", ""},
    {BPF_PROG_TYPE_CGROUP_SOCKOPT, "bpf_sockopt", "bpf_sockopt_kern"},
    {BPF_PROG_TYPE_SK_LOOKUP, "bpf_sk_lookup", "bpf_sk_lookup_kern"},
    {kProgNetfilter, "bpf_nf_ctx", "bpf_nf_ctx"},
};

}  // namespace

const ContextTypes* find_context_types(uint32_t prog_type) {
  for (const ContextTypes& types : kTypes) {
    if (types.prog_type == prog_type) {
      return &types;
    }
  }
  return nullptr;
}

bool is_context_argument(uint32_t prog_type, std::string_view structure) {
  const ContextTypes* types = find_context_types(prog_type);
  if (types == nullptr || structure.empty()) {
    return false;
  }
  // These two stand for each other.
  const bool is_shown_whole = types->kernel == "sk_buff" || types->kernel == "xdp_buff";
  return structure == types->program || (is_shown_whole && structure == types->kernel);
}

}  // namespace bpftime
