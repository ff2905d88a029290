# `cmake --install build --component sdk --prefix PREFIX`: the command, the headers, the three libraries with what they are
# linked from, the engine's libraries, and a package that find_package(attnscope) finds. tests/installed uses it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(engine_dir "${CMAKE_INSTALL_LIBDIR}/attnscope")
install(TARGETS attnscope attnscope_core attnscope_capture attnscope_sqlite attnscope_httplib attnscope_llama_common attnscope_llama
    EXPORT attnscope ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT sdk)
if(TARGET attnscope_attach) # what `attnscope attach` puts into programs
    install(TARGETS attnscope_attach LIBRARY DESTINATION ${engine_dir} COMPONENT sdk)
endif()
install(DIRECTORY include/attnscope DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT sdk)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT sdk)
install(EXPORT attnscope NAMESPACE attnscope:: FILE attnscope-targets.cmake
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/attnscope COMPONENT sdk)
configure_package_config_file(cmake/attnscope-config.cmake.in "${CMAKE_BINARY_DIR}/attnscope-config.cmake"
    INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/attnscope)
write_basic_package_version_file("${CMAKE_BINARY_DIR}/attnscope-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/attnscope-config.cmake" "${CMAKE_BINARY_DIR}/attnscope-config-version.cmake"
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/attnscope COMPONENT sdk)
# The engine's libraries by the names that the dynamic linker asks for, each of which looks for the others in its own folder.
install(CODE "
    set(root \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\")
    file(GLOB names RELATIVE \"${ATTNSCOPE_LLAMA_BUILD}/bin\" \"${ATTNSCOPE_LLAMA_BUILD}/bin/lib*.so.[0-9]\")
    foreach(name \${names})
        file(REAL_PATH \"${ATTNSCOPE_LLAMA_BUILD}/bin/\${name}\" real)
        string(REGEX REPLACE \"[.]so[.][0-9]+$\" \".so\" link \${name})
        file(INSTALL \"\${real}\" DESTINATION \"\${root}/${engine_dir}\" TYPE FILE RENAME \"\${name}\")
        file(CREATE_LINK \${name} \"\${root}/${engine_dir}/\${link}\" SYMBOLIC)
        file(READ_ELF \"\${real}\" RUNPATH runpath CAPTURE_ERROR failed)
        if(runpath)
            file(RPATH_SET FILE \"\${root}/${engine_dir}/\${name}\" NEW_RPATH \"\\$ORIGIN\")
        endif()
    endforeach()
    # Its server, which attnscope serve looks for beside them.
    foreach(name llama-server libllama-server-impl.so)
        if(EXISTS \"${ATTNSCOPE_LLAMA_BUILD}/bin/\${name}\")
            file(INSTALL \"${ATTNSCOPE_LLAMA_BUILD}/bin/\${name}\" DESTINATION \"\${root}/${engine_dir}\" TYPE PROGRAM)
            file(RPATH_SET FILE \"\${root}/${engine_dir}/\${name}\" NEW_RPATH \"\\$ORIGIN\")
        endif()
    endforeach()
    file(INSTALL \"$<TARGET_FILE:attnscope_bin>\" DESTINATION \"\${root}/${CMAKE_INSTALL_BINDIR}\" TYPE PROGRAM)
    file(RPATH_SET FILE \"\${root}/${CMAKE_INSTALL_BINDIR}/attnscope\" NEW_RPATH \"\\$ORIGIN/../${engine_dir}\")
" COMPONENT sdk)
