#include "broker/judge_as_chosen.hpp"

#include "kernel/kernel_verifier.hpp"

namespace bpftime {
namespace {

KernelVerdict ask_kernel(const ProgramTask& task) {
  KernelVerdict verdict;
  auto kernel = KernelVerifier::make(task.maps, task.btf, &verdict.log);
  if (!kernel) {
    verdict.error = kernel.error().code;
    return verdict;
  }
  const JudgedProgram judged(task);
  return kernel->ask(judged.program, {.log_level = task.log_level, .log_bytes = task.log_bytes});
}

}  // namespace

Judgement judge_as_chosen(const ProgramTask& task, uint32_t seconds) {
  const bool kernel_alone = task.verifier == VerifierChoice::kKernel;
  Judgement judgement = judge(task, seconds, kernel_alone ? 0 : task.log_level);
  if (task.verifier == VerifierChoice::kOurs || (judgement.error != 0 && !kernel_alone)) {
    return judgement;
  }
  KernelVerdict kernel = ask_kernel(task);
  judgement.error = kernel.error;
  judgement.too_complex = false;
  if (kernel_alone || kernel.error != 0) {
    judgement.insns_processed = kernel.insns_processed;
    judgement.log = std::move(kernel.log);
    if (!kernel_alone && task.log_level != 0) {
      judgement.log = "bpftime accepts the program, the running kernel does not\n" + judgement.log;
    }
  }
  return judgement;
}

}  // namespace bpftime
