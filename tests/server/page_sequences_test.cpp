// The page's routes over a recording of several sequences that share beginnings: every one is answered as if it were alone.
#include "recording/tree.h"
#include "support/temp_dir.h"

#include <attnscope/page_answers.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <thread>

using namespace attnscope;
using Json = nlohmann::json;

namespace {

const Geometry& geometry() {
    static const Geometry made = test::uniform_geometry({});
    return made;
}

void must(const Result<void>& r) {
    if (!r) throw std::runtime_error(r.error().message);
}

std::unique_ptr<RecordingWriter> begun(const std::string& path) {
    auto writer = RecordingWriter::create(path, test::make_info());
    if (!writer) throw std::runtime_error(writer.error().message);
    must((*writer)->begin(geometry()));
    return std::move(*writer);
}

void write_tree(const std::string& path) {
    const auto writer = begun(path);
    test::push_tree(*writer, geometry(), test::make_tree(), {});
    must(writer->close());
}

// The columns of one sequence of the tree, as the only sequence of a recording.
void write_alone(const std::string& path, int64_t sequence) {
    const std::vector<Sequence> tree = test::make_tree();
    const auto writer = begun(path);
    for (int64_t i = 0; i < tree[size_t(sequence)].n_frames; ++i) {
        Frame frame = test::make_frame(geometry(), test::owner_in(tree, {i, sequence}));
        frame.sequence = 0;
        writer->token_text(frame.token, test::piece_of(frame.token));
        must(writer->push(std::move(frame)));
    }
    must(writer->close());
}

std::string of(int64_t sequence) {
    return "r=0&s=" + std::to_string(sequence);
}

// Sums of heads over all rows differ in their last digits from run to run: threads add them.
bool same(const std::string& path, const std::string& a, const std::string& b) {
    if (path != "heads") return a == b;
    Json x = Json::parse(a), y = Json::parse(b);
    for (auto& [metric, list] : x["values"].items()) {
        for (size_t i = 0; i < list.size(); ++i) {
            const Json &p = list[i], &q = y["values"][metric][i];
            if (p.is_null() != q.is_null()) return false;
            if (!p.is_null() && std::abs(p.get<double>() - q.get<double>()) > 1e-9 * std::abs(p.get<double>()))
                return false;
        }
    }
    x.erase("values");
    y.erase("values");
    return x == y;
}

class PageSequences : public testing::Test {
protected:
    void SetUp() override {
        write_tree(tree_);
        open({tree_});
    }
    void open(const std::vector<std::string>& paths) {
        auto opened = PageAnswers::open(paths);
        ASSERT_TRUE(opened) << opened.error().message;
        answers_ = std::move(*opened);
    }
    PageAnswer answer(const std::string& path, const std::string& query) {
        PageAnswer a = answers_->answer(path, query);
        for (int tries = 0; a.status == 202 && tries < 500; ++tries) {
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
            a = answers_->answer(path, query);
        }
        return a;
    }
    Json json(const std::string& path, const std::string& query) {
        const PageAnswer a = answer(path, query);
        EXPECT_EQ(a.status, 200) << path << '?' << query << ": " << a.body;
        return Json::parse(a.body);
    }
    void refused(const std::string& path, const std::string& query, int status, const std::string& sentence) {
        const PageAnswer a = answer(path, query);
        EXPECT_EQ(a.status, status) << path << '?' << query << ": " << a.body;
        EXPECT_NE(a.body.find(sentence), std::string::npos) << path << '?' << query << ": " << a.body;
    }

    test::TempDir folder_;
    std::string tree_ = folder_.file("tree.attn");
    std::unique_ptr<PageAnswers> answers_;
};

} // namespace

TEST_F(PageSequences, RowsAreThoseOfTheRecordingBitForBit) {
    auto recording = Recording::open(tree_);
    ASSERT_TRUE(recording);
    for (const Sequence& s : (*recording)->sequences()) {
        for (int64_t t = 0; t < s.n_frames; ++t) {
            const auto layer = int32_t(t % 2), head = int32_t(t / 2 % 4);
            const PageAnswer a =
                answers_->answer("row", of(s.id) + "&t=" + std::to_string(t) + "&layer=" + std::to_string(layer) +
                                            "&head=" + std::to_string(head));
            const auto expected =
                (*recording)->rows({t, s.id}, {std::vector<int32_t>{layer}, std::vector<int32_t>{head}});
            if (!expected) { // recorded without its queries
                EXPECT_EQ(a.status, 404) << a.body;
                continue;
            }
            ASSERT_EQ(a.status, 200) << a.body;
            std::vector<float> row(a.body.size() / sizeof(float));
            std::memcpy(row.data(), a.body.data(), a.body.size());
            ASSERT_EQ(row, expected->weights) << "sequence " << s.id << " token " << t;
        }
        refused("row", of(s.id) + "&t=" + std::to_string(s.n_frames), 404, "");
    }
}

TEST_F(PageSequences, EveryQuestionIsAnsweredAsOfARecordingOfItAlone) {
    const char* const questions[] = {"tokens",
                                     "health",
                                     "heads",
                                     "row&t=24",
                                     "row&t=24&layer=1&head=2",
                                     "row&t=24&layer=1&reduce=max",
                                     "column&t=3&layer=1&head=2",
                                     "column&t=21",
                                     "tile&level=0&x=0&y=0&layer=0&head=1",
                                     "scores",
                                     "scores&layer=1",
                                     "prune&policy=h2o&budget=9",
                                     "prune&policy=tova&budget=9&layer=1&head=1",
                                     "head&layer=1&head=3",
                                     "flow&begin=22&end=25",
                                     "rollout&begin=22&end=25"}; // refused: some queries were not kept
    for (const int64_t s : {0, 2, 4, 5, 6}) {
        const std::string alone = folder_.file("alone-" + std::to_string(s) + ".attn");
        write_alone(alone, s);
        open({tree_, alone});
        for (const std::string question : questions) {
            const std::string path = question.substr(0, question.find('&')), words = question.substr(path.size());
            const PageAnswer here = answer(path, of(s) + words), there = answer(path, "r=1" + words);
            EXPECT_EQ(here.status, path == "rollout" ? 404 : 200) << question << ": " << here.body;
            EXPECT_EQ(here.status, there.status) << question;
            EXPECT_TRUE(same(path, here.body, there.body)) << "sequence " << s << ", " << question;
        }
    }
}

TEST_F(PageSequences, InfoSaysWhichOfHowMany) {
    const std::vector<Sequence> tree = test::make_tree();
    for (const Sequence& s : tree) {
        const Json info = json("info", of(s.id));
        EXPECT_EQ(info["name"], "tree.attn");
        EXPECT_EQ(info["sequence"], s.id);
        EXPECT_EQ(info["n_tokens"], s.n_frames);
        EXPECT_EQ(info["n_sequences"], int64_t(tree.size()));
        EXPECT_EQ(info["n_recorded"], test::frames_of(tree));
    }
    EXPECT_EQ(json("info", "r=0")["sequence"], 0) << "a link from before there were several";
    EXPECT_EQ(json("health", "r=0")["frames"].size(), size_t(tree[0].n_frames)) << "of the other sequences as well";
}

TEST_F(PageSequences, TheListSaysWhatEachGoesOnFromAndHow) {
    const std::vector<Sequence> tree = test::make_tree();
    const Json list = json("sequences", "r=0")["sequences"];
    ASSERT_EQ(list.size(), tree.size());
    for (const Sequence& s : tree) {
        const Json& one = list[size_t(s.id)];
        EXPECT_EQ(one["id"], s.id);
        EXPECT_EQ(one["parent"], s.parent);
        EXPECT_EQ(one["n_shared"], s.n_shared);
        EXPECT_EQ(one["n_tokens"], s.n_frames);
        EXPECT_EQ(one["label"], s.label);
    }
    EXPECT_EQ(list[5]["words"], "") << "nothing of its own";
    // those of its own first tokens, not of the beginning that it shares
    const Json tokens = json("tokens", of(1));
    const std::string first = tokens["pieces"][std::to_string(tokens["ids"][37].get<int64_t>())];
    const std::string words = list[1]["words"];
    EXPECT_FALSE(words.empty());
    EXPECT_EQ(words.substr(0, first.size() / 4 * 3 - 3), first.substr(0, first.size() / 4 * 3 - 3));
    EXPECT_NE(words, list[0]["words"]);
}

TEST_F(PageSequences, OneThatIsNotThereIsRefusedInWords) {
    for (const char* path :
         {"info", "tokens", "health", "heads", "row", "column", "tile", "scores", "prune", "head", "flow", "rollout"}) {
        refused(path, "r=0&s=7", 404, "there is no sequence 7; the recording has 7, 0 to 6");
        refused(path, "r=0&s=-1", 400, "\\\"s\\\" must be a whole number");
        refused(path, "r=0&s=x", 400, "\\\"s\\\" must be a whole number");
        refused(path, "r=0&s=", 400, "\\\"s\\\" must be a whole number");
        refused(path, "r=0&s=1&s=2", 400, "more than once");
        refused(path, "r=1&s=1", 404, "no such recording");
    }
    refused("sequences", "r=0&s=1", 400, "takes no");
    refused("compare", "a=0&sa=7&b=0", 404, "there is no sequence 7");
    refused("compare", "a=0&b=0&sb=-2", 400, "\\\"sb\\\" must be");
    const std::string alone = folder_.file("alone.attn");
    write_alone(alone, 4);
    open({alone});
    refused("info", "r=0&s=1", 404, "there is no sequence 1; the recording has one, 0");
    EXPECT_EQ(json("info", "r=0&s=0")["n_sequences"], 1);
}

TEST_F(PageSequences, MetricsOfEachLieInAFileOfTheirOwn) {
    std::vector<std::string> computed;
    for (int64_t s = 0; s < 3; ++s) computed.push_back(answer("heads", of(s)).body);
    EXPECT_FALSE(same("heads", computed[0], computed[1]));
    EXPECT_FALSE(same("heads", computed[1], computed[2]));
    EXPECT_TRUE(std::filesystem::exists(tree_ + ".heads.json"));
    EXPECT_TRUE(std::filesystem::exists(tree_ + ".sequence-2.heads.json"));
    open({tree_});
    for (int64_t s = 0; s < 3; ++s) EXPECT_EQ(answer("heads", of(s)).body, computed[size_t(s)]) << s;
}

// Two of one length: nothing but its number tells a file of metrics from the other's.
TEST_F(PageSequences, MetricsUnderAnothersNameAreNotBelieved) {
    const std::string path = folder_.file("twins.attn");
    const auto writer = begun(path);
    Sequence second;
    second.id = 1;
    for (int64_t s = 0; s < 2; ++s) {
        if (s == 1) must(writer->begin_sequence(second));
        for (int64_t i = 0; i < 30; ++i) must(writer->push(test::make_frame(geometry(), FramePlace{i, s})));
    }
    must(writer->close());
    open({path});
    const std::string first = answer("heads", of(0)).body, computed = answer("heads", of(1)).body;
    ASSERT_FALSE(same("heads", first, computed));
    std::filesystem::copy_file(path + ".heads.json", path + ".sequence-1.heads.json",
                               std::filesystem::copy_options::overwrite_existing);
    open({path});
    EXPECT_TRUE(same("heads", answer("heads", of(1)).body, computed));
}

TEST_F(PageSequences, TwoOfOneRecordingAreCompared) {
    const Json same = json("compare", "a=0&sa=2&b=0&sb=2");
    EXPECT_EQ(same["n_tokens"], 80);
    const Json d = json("compare", "a=0&b=0&sb=1"); // a parent and its child: the same up to where it branches off
    EXPECT_GE(d["n_tokens"], 37);
    EXPECT_LT(d["n_tokens"], 60);
    refused("compare", "a=0&b=0&sb=3", 400, "differ in their first token"); // which goes on from nobody
}

TEST_F(PageSequences, ManyAskForAllOfThemAtOnce) {
    const std::vector<Sequence> tree = test::make_tree();
    std::vector<std::string> expected;
    for (const Sequence& s : tree) expected.push_back(answers_->answer("row", of(s.id) + "&t=24&layer=1").body);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
            for (size_t k = 0; k < 60; ++k) {
                const size_t s = (k * 3 + i) % tree.size();
                if (answers_->answer("row", of(int64_t(s)) + "&t=24&layer=1").body != expected[s]) ++wrong;
                if (answers_->answer("info", of(int64_t(s))).status != 200) ++wrong;
                if (answers_->answer("sequences", "r=0").status != 200) ++wrong;
            }
        });
    }
    for (std::thread& t : threads) t.join();
    EXPECT_EQ(wrong, 0);
}

// One that begins while somebody looks is there without another look at the file from the start.
TEST_F(PageSequences, ARecordingThatGrowsByASequenceIsReadAsItIs) {
    const std::string path = folder_.file("growing.attn");
    const auto writer = begun(path);
    const auto push = [&](int64_t sequence, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            Frame frame = test::make_frame(geometry(), FramePlace{i, sequence});
            writer->token_text(frame.token, test::piece_of(frame.token));
            must(writer->push(std::move(frame)));
        }
    };
    const auto committed = [&](int64_t n) {
        for (int tries = 0; writer->recorded() < n && tries < 500; ++tries)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
    };
    push(0, 0, 30);
    committed(30);
    open({path});
    EXPECT_EQ(json("info", "r=0")["n_sequences"], 1);
    refused("row", "r=0&s=1&t=20", 404, "has one, 0");
    Sequence child;
    child.id = 1;
    child.parent = 0;
    child.n_shared = 12;
    must(writer->begin_sequence(child));
    push(1, 12, 15);
    committed(33);
    const Json info = json("info", "r=0");
    EXPECT_EQ(info["n_sequences"], 2);
    EXPECT_EQ(info["n_tokens"], 30);
    EXPECT_EQ(info["n_recorded"], 33);
    const auto words = [&] { return json("sequences", "r=0")["sequences"][1]["words"].get<std::string>(); };
    const std::string few = words();
    EXPECT_EQ(json("info", "r=0&s=1")["n_tokens"], 15);
    EXPECT_EQ(answer("row", "r=0&s=1&t=14&layer=1&head=0").body.size(), 15 * sizeof(float));
    push(1, 15, 50);
    committed(68);
    EXPECT_EQ(json("info", "r=0&s=1")["n_tokens"], 50);
    EXPECT_EQ(answer("row", "r=0&s=1&t=49&layer=1&head=0").body.size(), 50 * sizeof(float));
    EXPECT_EQ(json("health", "r=0&s=1")["frames"].size(), 50U);
    EXPECT_GT(words().size(), few.size()) << "the first words alone";
    must(writer->close());
    EXPECT_EQ(json("info", "r=0&s=1")["complete"], true);
}
