# The engine's own chat templates: the part of llama.cpp's common/ that renders a model's Jinja template. Its libraries do not
# hold it, and what it depends on is not public, so it is compiled here, unmodified, from the pinned sources.
set(common_dir "${ATTNSCOPE_LLAMA_DIR}/common")
include("${common_dir}/parsers/sources.cmake") # LLAMA_CHAT_PARSERS_SOURCES
set(common_sources ${LLAMA_CHAT_PARSERS_SOURCES})
foreach(name chat chat-auto-parser-generator chat-auto-parser-helpers chat-diff-analyzer chat-peg-parser peg-parser json json-schema
        json-schema-to-grammar trie unicode log jinja/caps jinja/lexer jinja/parser jinja/runtime jinja/string
        jinja/value)
    list(APPEND common_sources "${common_dir}/${name}.cpp")
endforeach()
add_library(attnscope_llama_common STATIC ${common_sources})
target_include_directories(attnscope_llama_common PRIVATE "${common_dir}" "${ATTNSCOPE_LLAMA_DIR}/vendor")
target_compile_options(attnscope_llama_common PRIVATE -w -O1)
set_target_properties(attnscope_llama_common PROPERTIES CXX_STANDARD 17)
target_link_libraries(attnscope_llama_common PUBLIC attnscope_llama Threads::Threads)
if(ATTNSCOPE_SANITIZE)
    target_compile_options(attnscope_llama_common PRIVATE -fsanitize=${ATTNSCOPE_SANITIZE} -fno-omit-frame-pointer -g)
endif()
