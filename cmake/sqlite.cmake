# SQLite as an amalgamation: Debian 12's 3.40 has the WAL-reset defect (fixed in 3.51.3).
if(NOT EXISTS "${ATTNSCOPE_SQLITE_DIR}/sqlite3.c")
    message(FATAL_ERROR "No SQLite amalgamation at ${ATTNSCOPE_SQLITE_DIR}. Run scripts/fetch-sources.sh (make does it), "
                        "or point -DATTNSCOPE_SQLITE_DIR= at one.")
endif()
file(STRINGS "${ATTNSCOPE_SQLITE_DIR}/sqlite3.h" sqlite_number REGEX "^#define SQLITE_VERSION_NUMBER")
string(REGEX REPLACE "[^0-9]*([0-9]+)$" "\\1" sqlite_number "${sqlite_number}")
if(sqlite_number LESS 3051003)
    message(FATAL_ERROR "SQLite ${sqlite_number} has the WAL-reset defect; 3.51.3 or newer is needed.")
endif()
add_library(attnscope_sqlite STATIC "${ATTNSCOPE_SQLITE_DIR}/sqlite3.c")
target_include_directories(attnscope_sqlite SYSTEM INTERFACE "$<BUILD_INTERFACE:${ATTNSCOPE_SQLITE_DIR}>")
target_compile_definitions(attnscope_sqlite PRIVATE SQLITE_THREADSAFE=1 SQLITE_DQS=0 SQLITE_DEFAULT_MEMSTATUS=0
    SQLITE_OMIT_DEPRECATED SQLITE_OMIT_LOAD_EXTENSION SQLITE_OMIT_SHARED_CACHE SQLITE_LIKE_DOESNT_MATCH_BLOBS
    SQLITE_MAX_EXPR_DEPTH=100 SQLITE_TRUSTED_SCHEMA=0)
target_compile_options(attnscope_sqlite PRIVATE -O2 -w)
target_link_libraries(attnscope_sqlite PUBLIC Threads::Threads m)
