// What goes through shared memory: whole or not at all, and read as if an enemy had written it.
#include "attach/wire/messages.h"
#include "attach/wire/ring.h"
#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <thread>

#include <poll.h>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;

namespace {

std::vector<uint8_t> message_bytes(const Message& message) {
    ByteList writer;
    write_message(message, writer);
    return {writer.bytes().begin(), writer.bytes().end()};
}

bool write(RingWriter& ring, std::span<const uint8_t> message) {
    return ring.try_write(message.size(), [&](ByteWriter& to) {
        for (const uint8_t byte : message) to.put(byte);
    });
}

FrameMessage some_frame() {
    FrameMessage m;
    m.stream = 3, m.cache_stream = 2;
    m.frame.sequence = 2, m.frame.index = 7, m.frame.token = 41, m.frame.position = 9;
    m.frame.kind = FrameKind::generated;
    m.frame.q = {1, 2, 3}, m.frame.k = {4, 5};
    m.frame.visible = {{{0, 4}, {6, 8}}, {{7, 8}}};
    m.frame.witnesses.resize(2);
    m.frame.witnesses[1].layer = 5, m.frame.witnesses[1].fingerprint = 0.25;
    m.frame.verdict = verdict_stale;
    return m;
}

StreamBegin some_stream() {
    StreamBegin m;
    m.stream = 3, m.n_vocab = 99;
    m.files = {"/a.gguf", "/b.gguf"};
    m.geometry.n_mask_groups = 2;
    m.geometry.layers.resize(2);
    m.geometry.layers[0].n_head = 8, m.geometry.layers[0].sinks = {1, 2}, m.geometry.layers[0].on_device = true;
    m.geometry.layers[1].absent = "recurrent";
    return m;
}

TEST(AttachMessages, ComeBackAsTheyWere) {
    const std::optional<Message> frame = read_message(message_bytes(some_frame()));
    ASSERT_TRUE(frame && std::holds_alternative<FrameMessage>(*frame));
    EXPECT_EQ(std::get<FrameMessage>(*frame).cache_stream, 2);
    const Frame &read = std::get<FrameMessage>(*frame).frame, was = some_frame().frame;
    EXPECT_EQ(read.index, was.index);
    EXPECT_EQ(read.q, was.q);
    EXPECT_EQ(read.k, was.k);
    EXPECT_EQ(read.visible, was.visible);
    EXPECT_EQ(read.kind, was.kind);
    EXPECT_EQ(read.verdict, was.verdict);
    ASSERT_EQ(read.witnesses.size(), 2u);
    EXPECT_EQ(read.witnesses[1].layer, 5);
    EXPECT_EQ(read.witnesses[1].fingerprint, 0.25);

    const std::optional<Message> stream = read_message(message_bytes(some_stream()));
    ASSERT_TRUE(stream && std::holds_alternative<StreamBegin>(*stream));
    const StreamBegin& begin = std::get<StreamBegin>(*stream);
    EXPECT_EQ(begin.files, some_stream().files);
    ASSERT_EQ(begin.geometry.layers.size(), 2u);
    EXPECT_EQ(begin.geometry.layers[0].sinks, some_stream().geometry.layers[0].sinks);
    EXPECT_TRUE(begin.geometry.layers[0].on_device);
    EXPECT_EQ(begin.geometry.layers[1].absent, "recurrent");
}

// Every prefix is refused, and no flipped bit makes us ask for memory that the message does not have.
TEST(AttachMessages, OfStrangersAreRefusedOrHarmless) {
    for (const Message& message : {Message(some_frame()), Message(some_stream()), Message(Notice{"text"})}) {
        const std::vector<uint8_t> whole = message_bytes(message);
        for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(read_message(std::span(whole).first(n))) << n;
        for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
            std::vector<uint8_t> spoilt = whole;
            spoilt[bit / 8] = static_cast<uint8_t>(spoilt[bit / 8] ^ (1u << bit % 8));
            (void)read_message(spoilt);
        }
    }
}

TEST(AttachRing, CarriesMessagesOfAllSizesAroundItsEnd) {
    TempDir dir;
    auto writer = RingWriter::create(dir.file("r.ring"), size_t(1) << 16);
    ASSERT_TRUE(writer);
    auto reader = RingReader::open(dir.file("r.ring"));
    ASSERT_TRUE(reader);
    constexpr int n = 4000;
    const auto make = [](int i) {
        std::vector<uint8_t> m(size_t(i) * 37 % 30000);
        std::iota(m.begin(), m.end(), static_cast<uint8_t>(i));
        return m;
    };
    std::thread program([&] {
        for (int i = 0; i < n; ++i) {
            while (!write(**writer, make(i))) std::this_thread::yield();
        }
    });
    std::vector<uint8_t> got;
    bool good = true;
    for (int i = 0; i < n && good; ++i) {
        for (;;) {
            Result<bool> read = (*reader)->read(got);
            good = read.ok();
            if (!good || *read) break;
            std::this_thread::yield();
        }
        good = good && got == make(i);
    }
    program.join();
    EXPECT_TRUE(good);
    EXPECT_FALSE((*writer)->fits(size_t(1) << 16));
}

// What is read as soon as it is written takes the memory of what was read before it, and not the whole ring's.
TEST(AttachRing, IsBegunAnewWhereItIsEmpty) {
    TempDir dir;
    constexpr size_t capacity = size_t(8) << 20;
    auto writer = RingWriter::create(dir.file("r.ring"), capacity);
    ASSERT_TRUE(writer);
    auto reader = RingReader::open(dir.file("r.ring"));
    ASSERT_TRUE(reader);
    std::vector<uint8_t> got;
    for (int i = 1; i < 200; ++i) {
        const std::vector<uint8_t> message(size_t(100'000 + 7 * i), static_cast<uint8_t>(i));
        ASSERT_TRUE(write(**writer, message));
        const auto read = (*reader)->read(got);
        ASSERT_TRUE(read.ok() && *read) << i;
        ASSERT_EQ(got, message) << i;
    }
    const std::string bytes = read_bytes(dir.file("r.ring"));
    EXPECT_EQ(bytes.find_first_not_of('\0', ring_header_bytes + (size_t(5) << 18)), std::string::npos);
    // Where it is not empty it goes on, around its end.
    int n_there = 0;
    while (write(**writer, std::vector<uint8_t>(100'000))) ++n_there;
    EXPECT_GE(n_there, 80);
    for (; n_there > 0; --n_there) ASSERT_TRUE(*(*reader)->read(got));
    EXPECT_FALSE(*(*reader)->read(got));
}

TEST(AttachRing, TellsThatItFills) {
    TempDir dir;
    auto writer = RingWriter::create(dir.file("r.ring"), size_t(1) << 16);
    ASSERT_TRUE(writer);
    EXPECT_FALSE((*writer)->fills());
    ASSERT_TRUE(write(**writer, std::vector<uint8_t>(15000)));
    EXPECT_FALSE((*writer)->fills());
    ASSERT_TRUE(write(**writer, std::vector<uint8_t>(15000)));
    EXPECT_TRUE((*writer)->fills());
}

// A message that is longer than it was said to be stays in its place.
TEST(AttachRing, TakesNoMoreThanThereIsRoomFor) {
    TempDir dir;
    auto writer = RingWriter::create(dir.file("r.ring"), size_t(1) << 16);
    auto reader = RingReader::open(dir.file("r.ring"));
    ASSERT_TRUE(writer && reader);
    ASSERT_TRUE((*writer)->try_write(4, [](ByteWriter& to) { to.put(~uint64_t(0)); }));
    ASSERT_TRUE(write(**writer, std::vector<uint8_t>{5, 6}));
    std::vector<uint8_t> got;
    ASSERT_TRUE(*(*reader)->read(got));
    EXPECT_EQ(got, std::vector<uint8_t>(4, 0xff));
    ASSERT_TRUE(*(*reader)->read(got));
    EXPECT_EQ(got, (std::vector<uint8_t>{5, 6}));
}

TEST(AttachWakeUp, IsHeardOnceHoweverOftenItIsCalled) {
    TempDir dir;
    const std::string folder = dir.path().string();
    WakeUp::call(folder); // nobody there
    auto made = WakeUp::create(folder);
    ASSERT_TRUE(made) << made.error().message;
    const auto heard = [&] {
        pollfd one{(*made)->fd(), POLLIN, 0};
        return poll(&one, 1, 0) == 1;
    };
    EXPECT_FALSE(heard());
    for (int i = 0; i < 70'000; ++i) WakeUp::call(folder); // more than a pipe holds: nobody waits
    EXPECT_TRUE(heard());
    (*made)->take();
    EXPECT_FALSE(heard());
}

// Nothing is written to what another one has put in its place.
TEST(AttachWakeUp, CallsNoFile) {
    TempDir dir;
    write_bytes(dir.file("wake"), "mine");
    WakeUp::call(dir.path().string());
    EXPECT_EQ(read_bytes(dir.file("wake")), "mine");
    EXPECT_FALSE(WakeUp::create(dir.path().string()));
}

TEST(AttachRing, WhoseCountersLieIsLeft) {
    TempDir dir;
    const std::string path = dir.file("r.ring");
    auto writer = RingWriter::create(path, size_t(1) << 16);
    ASSERT_TRUE(writer && write(**writer, std::vector<uint8_t>(10)));
    const std::string good = read_bytes(path);
    std::string why;
    const auto with = [&](size_t at, uint64_t value) {
        std::string bytes = good;
        std::memcpy(bytes.data() + at, &value, sizeof value);
        write_bytes(path, bytes);
        auto reader = RingReader::open(path);
        why = reader ? "" : reader.error().message;
        std::vector<uint8_t> message;
        const auto read = reader ? (*reader)->read(message) : Result<bool>(reader.error());
        why = read ? "" : read.error().message;
        return read.ok();
    };
    EXPECT_TRUE(with(0, *reinterpret_cast<const uint64_t*>("ATNRING1")));
    EXPECT_FALSE(with(0, 1)); // another magic
    EXPECT_NE(why.find("r.ring is no ring"), std::string::npos) << why;
    EXPECT_FALSE(with(8, uint64_t(1) << 40));                   // a capacity that the file has not
    EXPECT_FALSE(with(offsetof(RingHeader, written), 1 << 20)); // more than fits
    EXPECT_FALSE(with(offsetof(RingHeader, written), 3));       // less than a size
    EXPECT_EQ(why, "the ring's counters make no sense");
    EXPECT_FALSE(with(ring_header_bytes, 1 << 15)); // a message longer than what was written
    EXPECT_EQ(why, "a message in the ring is longer than what was written");
    EXPECT_FALSE(with(ring_header_bytes, ~uint64_t(0)));
    EXPECT_EQ(why, "the ring is begun anew where nothing is");
    write_bytes(path, good.substr(0, 100));
    EXPECT_FALSE(RingReader::open(path));
}

TEST(AttachParentLock, TellsWhetherTheParentLives) {
    TempDir dir;
    EXPECT_FALSE(ParentLock::held(dir.path().string()));
    {
        auto lock = ParentLock::hold(dir.path().string());
        ASSERT_TRUE(lock);
        EXPECT_TRUE(ParentLock::held(dir.path().string()));
        auto again = ParentLock::hold(dir.path().string());
        ASSERT_FALSE(again);
        EXPECT_NE(again.error().message.find("another parent uses "), std::string::npos) << again.error().message;
    }
    EXPECT_FALSE(ParentLock::held(dir.path().string()));
}

} // namespace
