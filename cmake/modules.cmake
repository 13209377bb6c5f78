# bpftime_module(NAME HOME pure|injected|edge|trusted SOURCES ... [DEPENDS rooms...] [LIBS libs...]
#                [TESTS x_test.cpp ...] [TEST_LIBS ...])
# makes the static library bpftime_NAME; for HOME injected (and pure rooms marked AGENT) also the object
# library agent_NAME, compiled as it runs inside a target: freestanding, general registers only.
# Each test file becomes its own executable NAME_<file>, registered with CTest.
find_package(GTest REQUIRED)

set(BPFTIME_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror)
set(BPFTIME_FLAGS ${BPFTIME_WARNINGS} $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti>)
# STYLE 3.5: what runs in a stranger's process.
set(BPFTIME_AGENT_FLAGS -O2 -g -ffreestanding -fPIC -fvisibility=hidden -fno-stack-protector
    -mgeneral-regs-only -mstringop-strategy=libcall -fcf-protection=none -fasynchronous-unwind-tables -ffunction-sections
    -fno-threadsafe-statics -DBPFTIME_AGENT=1)

function(bpftime_sanitize target)
  if(BPFTIME_SANITIZE)
    if(BPFTIME_SANITIZE STREQUAL "thread")
      # g++ 12 takes what the sanitizer puts between two statements for an overflow.
      target_compile_options(${target} PRIVATE -Wno-stringop-overflow)
    else()
      # ... and std::regex's functions for uninitialized ones.
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
    # without vptr: the rooms are built without RTTI
    target_compile_options(${target} PRIVATE -fsanitize=${BPFTIME_SANITIZE} -fno-sanitize=vptr -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${BPFTIME_SANITIZE})
  endif()
  if(BPFTIME_FUZZ)
    # -Werror is for g++: clang, and libstdc++ through it, warn of other things.
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=vptr -Wno-error)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endfunction()

function(bpftime_module name)
  cmake_parse_arguments(M "AGENT" "HOME" "SOURCES;DEPENDS;LIBS;TESTS;TEST_LIBS" ${ARGN})
  set(deps)
  foreach(dep ${M_DEPENDS})
    list(APPEND deps bpftime_${dep})
  endforeach()
  if(M_SOURCES)
    add_library(bpftime_${name} STATIC ${M_SOURCES})
    target_compile_options(bpftime_${name} PRIVATE ${BPFTIME_FLAGS})
    target_include_directories(bpftime_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(bpftime_${name} PUBLIC ${deps} ${M_LIBS})
    bpftime_sanitize(bpftime_${name})
    if(M_HOME STREQUAL "injected" OR M_AGENT)
      add_library(agent_${name} OBJECT ${M_SOURCES})
      target_compile_options(agent_${name} PRIVATE ${BPFTIME_FLAGS} ${BPFTIME_AGENT_FLAGS})
      target_include_directories(agent_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
    endif()
  else()
    add_library(bpftime_${name} INTERFACE)
    target_include_directories(bpftime_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(bpftime_${name} INTERFACE ${deps} ${M_LIBS})
  endif()
  foreach(test ${M_TESTS})
    get_filename_component(stem ${test} NAME_WE)
    bpftime_test(${name}_${stem} SOURCES ${test} LIBS bpftime_${name} ${M_TEST_LIBS})
  endforeach()
endfunction()

# bpftime_no_sanitizer(REASON TEST...) : tests that `make test-asan` leaves out. REASON is for who reads.
function(bpftime_no_sanitizer reason)
  foreach(test ${ARGN})
    set_property(TEST ${test} APPEND PROPERTY LABELS no_sanitizer)
  endforeach()
endfunction()

# What is shared among threads or processes: the tests that are worth a thread sanitizer. The others run in one thread,
# or in processes that it does not see into (maps_hash_death_test steps through them).
set(BPFTIME_THREADED_TESTS "^(base_|maps_(lock|array|hash)_test|ipc_|broker_(lifetime|bpf|server)|bpfcall_answer|runtime_run|helpers_|hook_(probes|threads))")
add_custom_target(unit_tests)

# bpftime_test(NAME SOURCES ... LIBS ... [TIMEOUT s] [SERIAL]) : a GoogleTest executable, one CTest test.
function(bpftime_test name)
  cmake_parse_arguments(T "SERIAL" "TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT BPFTIME_SANITIZE STREQUAL "thread" OR name MATCHES "${BPFTIME_THREADED_TESTS}")
    add_dependencies(unit_tests ${name})
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 600)
  endif()
  add_executable(${name} ${T_SOURCES})
  target_compile_options(${name} PRIVATE ${BPFTIME_WARNINGS})
  target_link_libraries(${name} PRIVATE ${T_LIBS} GTest::gtest GTest::gtest_main)
  if(BPFTIME_SANITIZE MATCHES "address")
    # Of a test itself only the addresses are of interest; UBSan over GoogleTest's macros takes most of a build's time.
    target_compile_options(${name} PRIVATE -fsanitize=address -O0)
    target_link_options(${name} PRIVATE -fsanitize=${BPFTIME_SANITIZE})
  else()
    bpftime_sanitize(${name})
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${T_TIMEOUT} RUN_SERIAL "${T_SERIAL}")
  if(name MATCHES "${BPFTIME_THREADED_TESTS}")
    set_property(TEST ${name} APPEND PROPERTY LABELS threaded)
  endif()
endfunction()

# bpftime_fuzz(NAME SOURCES ... LIBS ...) : fuzz/NAME.cpp, seeds from fuzz/corpus/NAME.
function(bpftime_fuzz name)
  cmake_parse_arguments(F "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(fuzz_${name} ${F_SOURCES})
  target_compile_options(fuzz_${name} PRIVATE ${BPFTIME_WARNINGS} -fsanitize=fuzzer,address,undefined -fno-sanitize=vptr)
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer,address,undefined)
  target_include_directories(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(fuzz_${name} PRIVATE ${F_LIBS})
endfunction()
