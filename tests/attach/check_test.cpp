// attnscope attach --check: what can be told of a program without running it.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <sys/stat.h>
#include <sys/xattr.h>

using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

const std::string host = ATTNSCOPE_ATTACH_HOST;

Answer check(const std::string& what) {
    return shell(ATTNSCOPE_BIN " attach --check " + what + " 2>&1");
}

class AttachCheck : public testing::Test {
protected:
    TempDir dir;
};

TEST_F(AttachCheck, TellsWithoutRunning) {
    EXPECT_EQ(check(host).code, 0);
    EXPECT_EQ(check("sh").code, 0);
    EXPECT_NE(
        check("sh").output.find("Its file names no llama.cpp; where it or what it starts loads one while it runs"),
        std::string::npos);
    EXPECT_NE(check(host).output.find(", and captures where they call ggml's scheduler"), std::string::npos);
    const std::string script = dir.file("script");
    std::ofstream(script) << "#!/usr/bin/env sh\ntouch " << dir.file("ran") << "\n";
    fs::permissions(script, fs::perms::owner_all);
    EXPECT_EQ(check(script).code, 0);
    EXPECT_FALSE(fs::exists(dir.file("ran")));
    EXPECT_EQ(check(script).output.find("perhaps: " + script + " is a script that "), 0u) << check(script).output;

    const std::string rooted = dir.file("rooted"), noise = dir.file("noise"), half = dir.file("half");
    fs::copy(host, rooted);
    fs::permissions(rooted, fs::perms::set_uid, fs::perm_options::add);
    EXPECT_NE(check(rooted).output.find("runs with another user's rights (set-user-id)"), std::string::npos);
    EXPECT_EQ(check(rooted).code, 1);
    std::ofstream(noise) << "noise";
    fs::permissions(noise, fs::perms::owner_all);
    EXPECT_EQ(check(noise).code, 1);
    EXPECT_NE(check(noise).output.find("is no program of this system"), std::string::npos);
    for (const uintmax_t bytes : {3u, 20u, 100u, 300u}) {
        fs::copy(host, half, fs::copy_options::overwrite_existing);
        fs::resize_file(half, bytes);
        EXPECT_EQ(check(half).code, 1) << bytes;
    }
    EXPECT_NE(check(half).output.find("half is damaged"), std::string::npos) << check(half).output;
    EXPECT_EQ(check("/nonexistent/program").code, 2);
    EXPECT_NE(check(dir.path().string()).output.find("Is a directory"), std::string::npos)
        << check(dir.path().string()).output;
    EXPECT_EQ(check("").code, 2);
    EXPECT_EQ(check("--caller").code, 2);
    EXPECT_NE(check(ATTNSCOPE_ATTACH_STATIC_CHILD).output.find("linked statically"), std::string::npos);
    const auto script_of = [&](const std::string& first) {
        std::ofstream(script) << first << "\n";
        return check(script);
    };
    EXPECT_NE(script_of("#!").output.find("names no program that runs it"), std::string::npos);
    EXPECT_NE(script_of("#!" + script).output.find("is a script of scripts"), std::string::npos);
    EXPECT_EQ(script_of("#!/nonexistent").code, 2);
    // what the system makes of such lines
    EXPECT_EQ(script_of("#! \t/bin/sh\t-x").output.find("perhaps: "), 0u);
    EXPECT_EQ(script_of(std::string("#!/bin/sh\0x", 11)).output.find("perhaps: "), 0u);
    EXPECT_NE(script_of("#!/bin/sh\r").output.find("names a program that nobody can have"), std::string::npos);
    EXPECT_EQ(script_of("#!/bin/\x1b[31msh").output.find('\x1b'), std::string::npos);
    EXPECT_NE(script_of("#!/" + std::string(300, 'a')).output.find("names no program"), std::string::npos);
    const std::string pipe = dir.file("pipe");
    ASSERT_EQ(mkfifo(pipe.c_str(), 0700), 0);
    EXPECT_NE(check(pipe).output.find("Permission denied"),
              std::string::npos); // as of what cannot be started; it does not wait
    EXPECT_NE(script_of("#!" + pipe).output.find("Permission denied"), std::string::npos);
    const std::string capable = dir.file("capable");
    fs::copy(host, capable);
    const unsigned char right[20] = {0, 0, 0, 2, 1}; // VFS_CAP_REVISION_2, cap_chown
    if (setxattr(capable.c_str(), "security.capability", right, sizeof right, 0) == 0) {
        EXPECT_NE(check(capable).output.find("has capabilities"), std::string::npos);
    }
}

// A shell starts other programs: of what those are the script says nothing that can be read without running it.
TEST_F(AttachCheck, DoesNotTakeAScriptForTheShellThatRunsIt) {
    const auto write = [](const std::string& path, const std::string& text) {
        fs::create_directories(fs::path(path).parent_path());
        std::ofstream(path) << text;
        fs::permissions(path, fs::perms::owner_all);
    };
    // as pyenv has it
    const std::string shim = dir.file(".pyenv") + "/shims/python3", of_shim = dir.file("of_shim");
    write(shim, "#!/usr/bin/env bash\nexec pyenv exec python3 \"$@\"\n");
    EXPECT_NE(check(shim).output.find("perhaps: " + shim + " is a script that "), std::string::npos);
    EXPECT_NE(check(shim).output.find("what it starts is not known until it runs"), std::string::npos);
    EXPECT_NE(check(shim).output.find("pyenv which python3"), std::string::npos) << check(shim).output;
    EXPECT_EQ(check(shim).output.find("names no llama.cpp"), std::string::npos) << check(shim).output;
    EXPECT_EQ(check(shim).code, 0);
    write(of_shim, "#!" + shim + "\nprint()\n");
    EXPECT_EQ(check(of_shim).output, check(shim).output);
    // what interprets a script itself is what computes
    const std::string interpreted = dir.file("interpreted");
    for (const std::string& first : {"#!" + host, "#!/usr/bin/env -S " + host + " -u", "#!/usr/bin/env A=b " + host}) {
        write(interpreted, first + "\n");
        EXPECT_EQ(check(interpreted).output, check(host).output) << first;
    }
    // env's own options, and what it makes of them where it is handed all words as one
    write(interpreted, "#!/usr/bin/env -S -u FOO -C /tmp -i A=b " + host + "\n");
    EXPECT_EQ(check(interpreted).output, check(host).output);
    write(interpreted, "#!/usr/bin/env -S" + host + "\n");
    EXPECT_EQ(check(interpreted).output, check(host).output);
    write(interpreted, "#!/usr/bin/env -u FOO " + host + "\n");
    EXPECT_NE(check(interpreted).output.find("env runs: what it starts is not known"), std::string::npos)
        << check(interpreted).output;
    // the variable goes through a shell without shared libraries, too, but not through one with other rights
    const std::string still = dir.file("static") + "/sh", rooted = dir.file("rooted") + "/sh";
    fs::create_directories(fs::path(still).parent_path()), fs::create_directories(fs::path(rooted).parent_path());
    fs::copy(ATTNSCOPE_ATTACH_STATIC_CHILD, still);
    write(interpreted, "#!" + still + "\n");
    EXPECT_EQ(check(interpreted).output.find("perhaps: "), 0u) << check(interpreted).output;
    fs::copy(host, rooted);
    fs::permissions(rooted, fs::perms::set_uid, fs::perm_options::add);
    write(interpreted, "#!" + rooted + "\n");
    EXPECT_EQ(check(interpreted).code, 1);
    EXPECT_NE(check(interpreted).output.find("runs with another user's rights"), std::string::npos);
}

} // namespace
