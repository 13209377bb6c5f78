#!/bin/sh
# bpftime-vm as a bpf_conformance runner calls it: $1 is the command.
vm=$1
fails=0
check() { # what, expected output, expected status, got output, got status
  if [ "$2" != "$4" ] || [ "$3" != "$5" ]; then
    echo "$1: expected '$2' ($3), got '$4' ($5)"
    fails=1
  fi
}
for engine in interpreter jit; do
  out=$(echo "b7 00 00 00 2a 00 00 00 95 00 00 00 00 00 00 00" | "$vm" --engine $engine)
  check "constant, $engine" 2a 0 "$out" $?
  out=$(echo "71 10 01 00 00 00 00 00 0f 20 00 00 00 00 00 00 95 00 00 00 00 00 00 00" |
    "$vm" "aa  10" --engine $engine)
  check "memory and its size, $engine" 12 0 "$out" $?
  out=$(echo "8d 00 00 00 00 00 00 00 95 00 00 00 00 00 00 00" | "$vm" --engine $engine)
  check "callx, $engine" "instruction 0: unknown opcode" 1 "$out" $?
  out=$(echo "85 00 00 00 63 00 00 00 95 00 00 00 00 00 00 00" | "$vm" --engine $engine)
  check "unknown helper, $engine" "helper 99 is not registered" 1 "$out" $?
  out=$(echo "b7 00 00 00 00 00 00 00 05 00 ff ff 00 00 00 00" | "$vm" --engine $engine --budget 1000)
  check "endless, $engine" "the budget is used up" 1 "$out" $?
done
out=$(echo "b7 01 00 00 00 00 00 00 71 10 00 00 00 00 00 00 95 00 00 00 00 00 00 00" | "$vm")
check "null" "instruction 1: access outside of what is allowed" 1 "$out" $?
out=$(echo "95 00 xx" | "$vm")
check "no hex" "program is not hex bytes" 1 "$out" $?
"$vm" --nonsense 2>/dev/null </dev/null
check "usage" "" 2 "" $?
exit $fails
