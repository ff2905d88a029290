# cpp-httplib as it lies in llama.cpp's sources. Its settings are macros that its header reads too, hence
# PUBLIC; but not for those who use the installed package, whose own cpp-httplib they would change.
set(httplib_dir "${ATTNSCOPE_LLAMA_DIR}/vendor/cpp-httplib")
if(NOT EXISTS "${httplib_dir}/httplib.cpp")
    message(FATAL_ERROR "No cpp-httplib at ${httplib_dir}: llama.cpp v0.5.0 carries it.")
endif()
add_library(attnscope_httplib STATIC "${httplib_dir}/httplib.cpp")
target_include_directories(attnscope_httplib SYSTEM PUBLIC "$<BUILD_INTERFACE:${httplib_dir}>")
target_compile_options(attnscope_httplib PRIVATE -w $<$<CONFIG:Release>:-O1>)
target_compile_definitions(attnscope_httplib PUBLIC
    "$<BUILD_INTERFACE:CPPHTTPLIB_LISTEN_BACKLOG=512>"                     # two hundred clients may come at once
    "$<BUILD_INTERFACE:CPPHTTPLIB_TCP_NODELAY=true>"                       # a token is sent when it is there
    "$<BUILD_INTERFACE:CPPHTTPLIB_REQUEST_URI_MAX_LENGTH=4096>"
    "$<BUILD_INTERFACE:CPPHTTPLIB_WEBSOCKET_MAX_PAYLOAD_LENGTH=16777216>") # as large as a body over HTTP may be
if(ATTNSCOPE_SANITIZE)
    # Half of what a sanitizer could find would lie in here.
    target_compile_options(attnscope_httplib PRIVATE -fsanitize=${ATTNSCOPE_SANITIZE} -fno-omit-frame-pointer -g)
    target_link_options(attnscope_httplib PUBLIC -fsanitize=${ATTNSCOPE_SANITIZE})
endif()
target_link_libraries(attnscope_httplib PUBLIC Threads::Threads)
