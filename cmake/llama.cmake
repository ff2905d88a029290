# llama.cpp, unmodified, as shared libraries. Built once into .deps/ and shared by all presets.
include(ExternalProject)
include(GNUInstallDirs)

set(variant cpu)
if(ATTNSCOPE_CUDA)
    set(variant cuda)
endif()
set(ATTNSCOPE_LLAMA_BUILD "${CMAKE_SOURCE_DIR}/.deps/llama-${variant}" CACHE PATH "Where llama.cpp is built")

if(ATTNSCOPE_PYTHON_PACKAGE AND NOT EXISTS "${ATTNSCOPE_LLAMA_DIR}/include/llama.h" AND NOT ATTNSCOPE_LLAMA_PREBUILT)
    # pip starts with a bare checkout: nobody has called make.
    message(STATUS "attnscope: fetching the sources of llama.cpp and SQLite (45 MB, once)")
    execute_process(COMMAND "${CMAKE_SOURCE_DIR}/scripts/fetch-sources.sh" RESULT_VARIABLE failed)
    if(failed)
        message(FATAL_ERROR "The sources of llama.cpp could not be fetched; see above. It needs npm and git: scripts/setup.sh build installs them.")
    endif()
endif()
if(ATTNSCOPE_PYTHON_PACKAGE AND NOT ATTNSCOPE_LLAMA_PREBUILT)
    message(STATUS "attnscope: compiling llama.cpp, then attnscope; some minutes, once")
endif()
if(NOT EXISTS "${ATTNSCOPE_LLAMA_DIR}/include/llama.h")
    message(FATAL_ERROR "No llama.cpp at ${ATTNSCOPE_LLAMA_DIR}. Run scripts/fetch-sources.sh (make does it), "
                        "or point -DATTNSCOPE_LLAMA_DIR= at a checkout of llama.cpp v0.5.0.")
endif()

set(llama_libs "")
foreach(lib llama ggml ggml-base ggml-cpu ggml-rpc)
    list(APPEND llama_libs "${ATTNSCOPE_LLAMA_BUILD}/bin/${CMAKE_SHARED_LIBRARY_PREFIX}${lib}${CMAKE_SHARED_LIBRARY_SUFFIX}")
endforeach()

set(llama_args -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=ON
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_APP=OFF
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF # its page is downloaded; ours is another
    -DLLAMA_OPENSSL=OFF -DGGML_CCACHE=OFF -DGGML_CUDA=${ATTNSCOPE_CUDA} -DGGML_RPC=ON
    -DCMAKE_C_COMPILER_LAUNCHER= -DCMAKE_CXX_COMPILER_LAUNCHER=)
# What a build for this machine's own processor must not use (docs/engine.md):
#   AVX512-FP16: ggml then adds the products of queries and keys in half precision; rows would be those of a coarser engine.
#   AMX, with GCC before 12.4 and 13.3, which leaves out stores of which it does not know that the AMX unit reads them (its PR
#   114098): the first product would end the program.
set(engine_flags "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64|AMD64")
    include(CheckCXXCompilerFlag)
    check_cxx_compiler_flag(-mno-avx512fp16 ATTNSCOPE_HAS_NO_AVX512FP16)
    if(ATTNSCOPE_HAS_NO_AVX512FP16)
        string(APPEND engine_flags " -mno-avx512fp16")
    endif()
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13.3)
        string(APPEND engine_flags " -mno-amx-tile -mno-amx-int8 -mno-amx-bf16")
    endif()
    list(APPEND llama_args "-DCMAKE_C_FLAGS=${engine_flags}" "-DCMAKE_CXX_FLAGS=${engine_flags}")
endif()
if(ATTNSCOPE_CUDA)
    list(APPEND llama_args "-DCMAKE_CUDA_ARCHITECTURES=${ATTNSCOPE_CUDA_ARCHITECTURES}" -DGGML_CUDA_NCCL=OFF)
endif()
option(ATTNSCOPE_LLAMA_PREBUILT "Take the libraries that lie in ATTNSCOPE_LLAMA_BUILD/bin instead of building them" OFF)
if(ATTNSCOPE_LLAMA_PREBUILT)
    add_custom_target(llama_cpp)
    add_custom_target(llama_server)
else()
    ExternalProject_Add(llama_cpp
        SOURCE_DIR "${ATTNSCOPE_LLAMA_DIR}"
        BINARY_DIR "${ATTNSCOPE_LLAMA_BUILD}"
        STAMP_DIR "${ATTNSCOPE_LLAMA_BUILD}/attnscope-stamp"
        TMP_DIR "${ATTNSCOPE_LLAMA_BUILD}/attnscope-tmp"
        CMAKE_GENERATOR Ninja
        CMAKE_ARGS ${llama_args}
        BUILD_COMMAND "${CMAKE_COMMAND}" --build "${ATTNSCOPE_LLAMA_BUILD}" --target llama ggml ggml-cpu ggml-rpc
        INSTALL_COMMAND ""
        BUILD_BYPRODUCTS ${llama_libs}
        USES_TERMINAL_BUILD TRUE)
    # The engine's own server, which `attnscope serve` stands before. Apart, because `make demo` does without it.
    add_custom_target(llama_server
        COMMAND "${CMAKE_COMMAND}" --build "${ATTNSCOPE_LLAMA_BUILD}" --target llama-server
        DEPENDS llama_cpp USES_TERMINAL VERBATIM)
endif()
set(ATTNSCOPE_LLAMA_SERVER "${ATTNSCOPE_LLAMA_BUILD}/bin/llama-server")

# The headers of the engine, and the libraries in the order in which the dynamic linker must search them.
add_library(attnscope_llama INTERFACE)
add_dependencies(attnscope_llama llama_cpp)
target_include_directories(attnscope_llama SYSTEM INTERFACE
    "$<BUILD_INTERFACE:${ATTNSCOPE_LLAMA_DIR}/include>" "$<BUILD_INTERFACE:${ATTNSCOPE_LLAMA_DIR}/ggml/include>")
foreach(lib ${llama_libs})
    get_filename_component(name "${lib}" NAME)
    target_link_libraries(attnscope_llama INTERFACE "$<BUILD_INTERFACE:${lib}>" # our headers name nothing of llama.cpp
        "$<INSTALL_INTERFACE:$<INSTALL_PREFIX>/${CMAKE_INSTALL_LIBDIR}/attnscope/${name}>")
endforeach()
target_link_options(attnscope_llama INTERFACE "$<BUILD_INTERFACE:-Wl,-rpath,${ATTNSCOPE_LLAMA_BUILD}/bin>"
    "$<INSTALL_INTERFACE:-Wl,-rpath,$<INSTALL_PREFIX>/${CMAKE_INSTALL_LIBDIR}/attnscope>")
if(ATTNSCOPE_CUDA)
    # libggml-cuda finds NVIDIA's libraries itself when it is loaded. The machine that builds may have the toolkit where the linker
    # does not look, and no driver at all.
    target_link_options(attnscope_llama INTERFACE "-Wl,--allow-shlib-undefined")
endif()

# The engine's server for its RPC back end, from its own source: models too large for one machine are split over several.
add_executable(rpc-server "${ATTNSCOPE_LLAMA_DIR}/tools/rpc/rpc-server.cpp")
target_link_libraries(rpc-server PRIVATE attnscope_llama Threads::Threads)
target_compile_options(rpc-server PRIVATE -w)
