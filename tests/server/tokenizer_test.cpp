// Texts that are made to hurt the tokeniser.
#include "models/model_make.h"
#include "server/http/server.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

using namespace attnscope;
using namespace attnscope::test;

TEST(Tokenizer, LongRunsOfLettersDoNotOverflowTheStack) {
    // Vocabularies that llama.cpp cuts with std::regex, and one that it cuts itself.
    for (const char* vocab : {"deepseek-llm", "command-r", "qwen2"}) {
        TempDir dir;
        models::ModelShape shape;
        shape.n_layer = 1;
        shape.vocab = vocab;
        const Result<void> made = models::make_model(shape, dir.file("m.gguf"));
        ASSERT_TRUE(made) << made.error().message;
        SessionOptions o;
        o.model_path = dir.file("m.gguf");
        o.n_ctx = 256;
        o.n_threads = 1;
        auto session = Session::open(o);
        ASSERT_TRUE(session) << session.error().message;
        server::ServerOptions options;
        options.port = 0;
        auto server = server::Server::start(**session, options);
        ASSERT_TRUE(server) << server.error().message;
        httplib::Client client("127.0.0.1", (*server)->port());
        client.set_read_timeout(120);
        for (const char* piece : {"a", " ", "\xC3\xA9"}) {
            const size_t size =
                std::string(vocab) == "deepseek-llm" && *piece == 'a' ? size_t(1) << 20 : size_t(1) << 17;
            std::string text;
            while (text.size() + 4 < size) text += piece;
            const auto r =
                client.Post("/api/v1/tokenize", nlohmann::json({{"text", text}, {"with_pieces", false}}).dump(),
                            "application/json");
            ASSERT_TRUE(r) << vocab << " '" << piece << "'";
            EXPECT_EQ(r->status, 200) << vocab << " '" << piece << "' " << r->body.substr(0, 200);
        }
        const auto r =
            client.Post("/api/v1/tokenize", nlohmann::json({{"text", std::string((size_t(1) << 20) + 1, 'a')}}).dump(),
                        "application/json");
        ASSERT_TRUE(r);
        EXPECT_EQ(r->status, 400);
    }
}
