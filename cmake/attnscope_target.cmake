# Warnings and sanitizers for our own targets; never for code that we only build.
function(attnscope_target target)
    target_include_directories(${target} PRIVATE "${CMAKE_SOURCE_DIR}/src" "${CMAKE_SOURCE_DIR}/include")
    set(warnings -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Woverloaded-virtual -Wdouble-promotion
        -Werror)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${warnings}>")
    if(ATTNSCOPE_FUZZ)
        target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link) # so that fuzzers see the library's branches
    endif()
    if(ATTNSCOPE_SANITIZE)
        target_compile_options(${target} PRIVATE -fsanitize=${ATTNSCOPE_SANITIZE} -fno-omit-frame-pointer -g)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU") # what it adds hides from GCC that a std::optional is empty
            target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
        endif()
        if(ATTNSCOPE_SANITIZE MATCHES "undefined")
            target_compile_options(${target} PRIVATE -fno-sanitize-recover=undefined)
        endif()
        target_link_options(${target} PUBLIC -fsanitize=${ATTNSCOPE_SANITIZE})
    endif()
endfunction()

# One room of src/ as a library: every .cpp in the folder.
function(attnscope_room name)
    file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp")
    add_library(attnscope_${name} OBJECT ${sources})
    attnscope_target(attnscope_${name})
    target_link_libraries(attnscope_${name} PUBLIC ${ARGN})
    target_include_directories(attnscope_${name} PUBLIC "${CMAKE_SOURCE_DIR}/include")
endfunction()
