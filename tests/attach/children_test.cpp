// Children that the library cannot go into live as they did, and print what they did.
#include "attach/host_fixture.h"

#include <gtest/gtest.h>

#include <elf.h>
#include <filesystem>
#include <fstream>
#include <string>

#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

class AttachChildren : public AttachHosts {
protected:
    void SetUp() override { fs::create_directory(out); }
    // Under a shell, which has the library in it: its own line and exit status, and nothing else on standard error.
    void expect_unharmed(const std::string& child, const std::string& line) {
        const Answer answer = attach("sh -c '" + child + "; exit $?'");
        EXPECT_EQ(answer.output, line);
        EXPECT_EQ(answer.code, 7);
        EXPECT_EQ(said.rfind("attnscope: nothing was captured", 0), 0u) << said;
        EXPECT_EQ(said.find('\n'), said.size() - 1) << said;
    }
};

TEST_F(AttachChildren, AStaticOneLives) {
    expect_unharmed(ATTNSCOPE_ATTACH_STATIC_CHILD, "alive, secure 0\n");
}

// Its file tells why nothing came of it.
TEST_F(AttachChildren, OfAStaticOneTheReasonIsSaid) {
    EXPECT_EQ(attach(ATTNSCOPE_ATTACH_STATIC_CHILD).code, 7);
    const std::string reason = shell(program + " attach --check " ATTNSCOPE_ATTACH_STATIC_CHILD).output.substr(4);
    EXPECT_EQ(said, "attnscope: nothing was captured: " + reason);
}

TEST_F(AttachChildren, ADynamicOneLives) {
    expect_unharmed(ATTNSCOPE_ATTACH_CHILD, "alive, secure 0\n");
}

// The system itself leaves the library out.
TEST_F(AttachChildren, OneThatRunsWithAnothersRightsLives) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can give a file to another user";
    const std::string child = dir.file("rooted");
    fs::copy(ATTNSCOPE_ATTACH_CHILD, child);
    ASSERT_EQ(chown(child.c_str(), 65534, 65534), 0);
    fs::permissions(child, fs::perms::owner_all | fs::perms::others_exec | fs::perms::set_uid);
    if (shell(child).output != "alive, secure 1\n") GTEST_SKIP() << "set-user-id programs are nothing special here";
    expect_unharmed(child, "alive, secure 1\n");
}

TEST_F(AttachChildren, One32BitProgramLives) {
    const std::string child = dir.file("child32");
    const std::string compile =
        "cc -m32 -nostdlib -static -fno-stack-protector -fno-pie -no-pie -o " + child + " " ATTNSCOPE_ATTACH_CHILD_32;
    if (shell_all(compile).code != 0 || shell(child).output != "alive\n") GTEST_SKIP() << "no 32-bit programs here";
    expect_unharmed(child, "alive\n");
    EXPECT_NE(shell_all(program + " attach --check " + child).output.find("another kind of processor"),
              std::string::npos);
}

// The header of a 32-bit program is enough to tell.
TEST_F(AttachChildren, A32BitProgramIsToldFromItsHeader) {
    const std::string child = dir.file("header32");
    Elf32_Ehdr header{};
    const unsigned char ident[] = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, EV_CURRENT};
    std::copy(std::begin(ident), std::end(ident), header.e_ident);
    header.e_type = ET_EXEC, header.e_machine = EM_386, header.e_version = EV_CURRENT;
    std::ofstream(child, std::ios::binary).write(reinterpret_cast<const char*>(&header), sizeof header)
        << std::string(64, '\0');
    fs::permissions(child, fs::perms::owner_all);
    const Answer answer = shell_all(program + " attach --check " + child);
    EXPECT_EQ(answer.code, 1);
    EXPECT_NE(answer.output.find("another kind of processor"), std::string::npos) << answer.output;
}

// musl's linker takes what LD_PRELOAD names as it takes any library, and ends the program where a name is missing.
TEST_F(AttachChildren, OneOfMuslLives) {
    const std::string child = dir.file("musl"), compile = "musl-gcc -o " + child + " " ATTNSCOPE_ATTACH_CHILD_SOURCE;
    if (shell_all(compile).code != 0) GTEST_SKIP() << "no musl here (Debian: musl-tools)";
    ASSERT_EQ(shell(child).code, 7);
    expect_unharmed(child, "alive, secure 0\n");
    EXPECT_NE(
        shell_all(program + " attach --check " + child).output.find("uses musl, and the library is made for glibc"),
        std::string::npos);
}

} // namespace
