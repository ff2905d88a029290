// A model's own chat template, against Jinja itself on every template of the engine's tree; hostile templates.
#include "engine/chat_template.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <unistd.h>

namespace attnscope::engine {
namespace {

using Json = nlohmann::ordered_json;

std::string read(const std::filesystem::path& path) {
    std::ifstream f(path, std::ios::binary);
    std::ostringstream text;
    text << f.rdbuf();
    return text.str();
}

Json conversations() {
    const Json system = {{"role", "system"}, {"content", "Be brief."}};
    const Json user = {{"role", "user"}, {"content", "Say hi."}}, again = {{"role", "user"}, {"content", "Again."}};
    const Json assistant = {{"role", "assistant"}, {"content", "Hi."}};
    Json out;
    out["user"]["messages"] = Json::array({user});
    out["system"]["messages"] = Json::array({system, user});
    out["turns"]["messages"] = Json::array({system, user, assistant, again});
    return out;
}

TEST(ChatTemplate, EveryTemplateOfTheTreeIsWhatJinjaWrites) {
    const std::string folder = std::string(ATTNSCOPE_LLAMA_DIR) + "/models/templates";
    const std::filesystem::path work = std::filesystem::temp_directory_path() / ("jinja-" + std::to_string(getpid()));
    std::filesystem::create_directories(work);
    std::ofstream(work / "in.json") << conversations().dump() << std::flush;
    const std::string command = "/usr/bin/python3 " ATTNSCOPE_SOURCE_DIR "/tests/engine/jinja_reference.py " + folder +
                                " < " + (work / "in.json").string() + " > " + (work / "out.json").string();
    ASSERT_EQ(std::system(command.c_str()), 0) << "python3-jinja2 is missing: make setup";
    const Json reference = Json::parse(read(work / "out.json"));
    std::filesystem::remove_all(work);
    ASSERT_GE(reference.size(), 60u);
    const Json asked = conversations();
    int equal = 0, refused = 0;
    for (const auto& [name, texts] : reference.items()) {
        const ChatTemplate t{nullptr, read(folder + "/" + name), "<s>", "</s>"};
        std::string how;
        for (const auto& [conversation, body] : asked.items()) {
            const Json& want = texts[conversation];
            const Result<std::string> got = render_chat(t, body.dump());
            if (want.is_null()) {
                ++refused; // the template raises: what the engine makes of it is its own
            } else if (!got) {
                how += conversation + ": " + got.error().message + "\n";
            } else if (*got != want.get<std::string>()) {
                how += conversation + ":\n<" + *got + ">\nJinja writes\n<" + want.get<std::string>() + ">\n";
            } else {
                ++equal;
            }
        }
        EXPECT_TRUE(how.empty()) << name << "\n" << how;
    }
    EXPECT_GE(equal, 200);
    std::printf("%zu templates: %d texts equal, %d that the template itself refuses\n", reference.size(), equal,
                refused);
}

TEST(ChatTemplate, ToolsAndArgumentsReachTheTemplateInTheirOrder) {
    const ChatTemplate t{nullptr, "{{ messages[0].content }}|{{ tools|tojson }}|{{ style }}|{{ enable_thinking }}", "",
                         ""};
    const Result<std::string> text = render_chat(
        t,
        R"({"messages":[{"role":"user","content":"Hi"}],"chat_template_kwargs":{"style":"loud","enable_thinking":false},
               "tools":[{"type":"function","function":{"name":"zeta","description":"d",
                         "parameters":{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string"}}}}}]})");
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_NE(text->find("\"name\": \"zeta\""), std::string::npos) << *text;
    EXPECT_LT(text->find("\"z\""), text->find("\"a\"")) << *text;
    EXPECT_NE(text->find("|loud|False"), std::string::npos) << *text;
}

TEST(ChatTemplate, ALastMessageOfTheAssistantIsContinued) {
    const std::string source =
        read(std::string(ATTNSCOPE_LLAMA_DIR) + "/models/templates/Qwen-Qwen2.5-7B-Instruct.jinja");
    const Result<std::string> text =
        render_chat({nullptr, source, "", ""},
                    R"({"messages":[{"role":"user","content":"Say hi."},{"role":"assistant","content":"Hi th"}]})");
    ASSERT_TRUE(text) << text.error().message;
    const std::string end = "<|im_start|>assistant\nHi th";
    ASSERT_GE(text->size(), end.size());
    EXPECT_EQ(text->substr(text->size() - end.size()), end);
}

TEST(ChatTemplate, ATemplateCannotHarmWhoRendersIt) {
    const std::string body = R"({"messages":[{"role":"user","content":"Hi"}]})";
    const auto render = [&](const std::string& source) { return render_chat({nullptr, source, "", ""}, body); };
    for (const std::string& source :
         {std::string("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), // endless
          "{{ " + std::string(200000, '(') + "1" + std::string(200000, ')') + " }}", std::string("{% for %}"),
          std::string("{{ raise_exception('no system message') }}"),
          std::string("{% for i in range(1000000000000) %}{{ 'x' * 1000000 }}{% endfor %}")}) {
        const Result<std::string> text = render(source);
        EXPECT_FALSE(text) << source.substr(0, 80);
        const std::string why = text ? "" : text.error().message;
        EXPECT_EQ(why.rfind("the chat template ", 0), 0u) << why;
    }
    const Result<std::string> good = render("{{ messages[0].content }}");
    ASSERT_TRUE(good) << good.error().message;
    EXPECT_EQ(*good, "Hi");
}

} // namespace
} // namespace attnscope::engine
