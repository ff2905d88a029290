# The page of web/, built by npm and embedded as bytes. Without npm the binary is whole but for the page, and says so.
find_program(ATTNSCOPE_NPM npm)
set(ATTNSCOPE_PAGE_DIR "${CMAKE_BINARY_DIR}/web")
set(ATTNSCOPE_PAGE_SOURCE "${CMAKE_BINARY_DIR}/page_bytes.cpp")
file(GLOB_RECURSE page_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/web/src/*")
if(ATTNSCOPE_NPM)
    add_custom_command(OUTPUT "${ATTNSCOPE_PAGE_DIR}/viewer.js" "${ATTNSCOPE_PAGE_DIR}/viewer.css" "${ATTNSCOPE_PAGE_DIR}/widget.js"
        COMMAND "${CMAKE_SOURCE_DIR}/scripts/build-web.sh" "${ATTNSCOPE_PAGE_DIR}"
        DEPENDS ${page_sources} "${CMAKE_SOURCE_DIR}/web/package-lock.json" "${CMAKE_SOURCE_DIR}/web/index.html"
            "${CMAKE_SOURCE_DIR}/web/vite.config.ts" "${CMAKE_SOURCE_DIR}/web/tsconfig.json" "${CMAKE_SOURCE_DIR}/scripts/build-web.sh"
        COMMENT "Building the page of web/" VERBATIM)
    set(page_files "${ATTNSCOPE_PAGE_DIR}/viewer.js" "${ATTNSCOPE_PAGE_DIR}/viewer.css")
else()
    message(WARNING "npm is missing: attnscope view and attnscope serve will have no page. Run 'make setup'.")
    set(page_files)
endif()
add_custom_command(OUTPUT "${ATTNSCOPE_PAGE_SOURCE}"
    COMMAND "${CMAKE_COMMAND}" "-DSCRIPT=${ATTNSCOPE_PAGE_DIR}/viewer.js" "-DSTYLE=${ATTNSCOPE_PAGE_DIR}/viewer.css"
        "-DOUT=${ATTNSCOPE_PAGE_SOURCE}" -P "${CMAKE_SOURCE_DIR}/cmake/embed_page.cmake"
    DEPENDS ${page_files} "${CMAKE_SOURCE_DIR}/cmake/embed_page.cmake" VERBATIM)
