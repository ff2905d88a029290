# Warnings and sanitizers for our own targets; never for code that we only build.
function(attnscope_target target)
    target_include_directories(${target} PRIVATE "${CMAKE_SOURCE_DIR}/src" "${CMAKE_SOURCE_DIR}/include")
    set(warnings -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Woverloaded-virtual -Wdouble-promotion
        -Werror)
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
        list(APPEND warnings -Wthread-safety) # base/mutex.h
    endif()
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${warnings}>")
    if(CMAKE_BUILD_TYPE STREQUAL "Release" AND "${ARGN}" STREQUAL "COLD")
        target_compile_options(${target} PRIVATE -O1) # nothing in it is computed often enough to wait for the optimiser
    endif()
    if(ATTNSCOPE_FUZZ)
        target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link) # so that fuzzers see the library's branches
    endif()
    if(ATTNSCOPE_SANITIZE)
        target_compile_options(${target} PRIVATE -fsanitize=${ATTNSCOPE_SANITIZE} -fno-omit-frame-pointer -g)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU") # what it adds makes GCC warn of what is not there; the plain builds are strict
            target_compile_options(${target} PRIVATE -Wno-error)
        endif()
        if(ATTNSCOPE_SANITIZE MATCHES "undefined")
            target_compile_options(${target} PRIVATE -fno-sanitize-recover=undefined)
        endif()
        target_link_options(${target} PUBLIC -fsanitize=${ATTNSCOPE_SANITIZE})
    endif()
endfunction()

# One room of src/ as a library of objects: every .cpp in the folder and below it.
function(attnscope_room name)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp")
    if(ATTNSCOPE_CUDA)
        list(FILTER sources EXCLUDE REGEX "/cuda/.*_none\\.cpp$")
        file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cu")
        list(APPEND sources ${cuda_sources})
    endif()
    add_library(attnscope_room_${name} OBJECT ${sources})
    attnscope_target(attnscope_room_${name})
    target_link_libraries(attnscope_room_${name} PUBLIC ${ARGN})
    target_include_directories(attnscope_room_${name} PUBLIC "${CMAKE_SOURCE_DIR}/include")
endfunction()

# A library made of rooms.
function(attnscope_library name)
    add_library(${name} STATIC)
    foreach(room ${ARGN})
        target_sources(${name} PRIVATE $<TARGET_OBJECTS:attnscope_room_${room}>)
    endforeach()
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
    target_compile_features(${name} INTERFACE cxx_std_20) # our headers'
    target_include_directories(${name} PUBLIC "$<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
endfunction()
