// What a recording states of its program may be read by whoever gets it: no key of its command line stands there.
#include "attach/parent/attached_settings.h"

#include "attach/host_fixture.h"

#include <nlohmann/json.hpp>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;

using Words = std::vector<std::string>;

TEST(AttachedSettings, HideWhatItsNameCallsASecret) {
    const std::pair<Words, Words> cases[] = {
        {{"--api-key", "S"}, {"--api-key", "***"}},
        {{"--api-key=S"}, {"--api-key=***"}},
        {{"--API-KEY", "S", "-c", "9"}, {"--API-KEY", "***", "-c", "9"}},
        {{"-hft", "S"}, {"-hft", "***"}},
        {{"--hf-token", "-S"}, {"--hf-token", "***"}},
        {{"--hf_token=S"}, {"--hf_token=***"}},
        {{"--password", "1234"}, {"--password", "***"}},
        {{"--adminPassword", "S"}, {"--adminPassword", "***"}},
        {{"--secret", "S"}, {"--secret", "***"}},
        {{"--apiKey", "S"}, {"--apiKey", "***"}},
        {{"--api-keys", "a,b"}, {"--api-keys", "***"}},
        {{"--gradio-auth", "me:S"}, {"--gradio-auth", "***"}},
        {{"--token"}, {"--token"}},
        {{"--one-token", "--api-key", "S"}, {"--one-token", "***", "***"}}, // whether it is a switch is not known
        {{"env", "HF_TOKEN=S S", "--api-key=S S"}, {"env", "HF_TOKEN=***", "--api-key=***"}},
        {{"--adminpass", "S", "SSHPASS=S", "MYSQL_PWD=S"}, {"--adminpass", "***", "SSHPASS=***", "MYSQL_PWD=***"}},
        {{"-mu", "https://me:S@S@host/m"}, {"-mu", "https://***@host/m"}},
        {{"env", "HF_TOKEN=S", "A=b", "prog"}, {"env", "HF_TOKEN=***", "A=b", "prog"}},
        {{"env", "AWS_SECRET_ACCESS_KEY=S=", "x"}, {"env", "AWS_SECRET_ACCESS_KEY=***", "x"}},
        {{"-mu", "https://me:S@host/m.gguf"}, {"-mu", "https://***@host/m.gguf"}},
        {{"-mu", "https://host/m.gguf?a=b&token=S"}, {"-mu", "https://host/m.gguf?a=b&token=***"}},
        {{"sh", "-c", "K_TOKEN=S  prog --api-key 'S T' -c 9"}, {"sh", "-c", "K_TOKEN=***  prog --api-key *** -c 9"}},
        {{"python3", "-c", "login(token='S')"}, {"python3", "-c", "login(token=***"}},
    };
    for (const auto& [given, stated] : cases) EXPECT_EQ(without_secrets(given), stated) << given.front();
}

TEST(AttachedSettings, KeepEverythingElse) {
    const Words cases[] = {
        {"llama-server", "-m", "m.gguf", "--port", "8080", "-ctk", "q8_0", "--keep", "4"},
        {"--api-key-file", "/etc/keys"},
        {"--ssl-key-file=/etc/k.pem", "--ssl-cert-file", "c"},
        {"--max-tokens", "20"},
        {"--max-tokens=20"},
        {"--token-budget", "20"},
        {"--tokenizer", "t", "--keyboard", "x", "--authors", "y"},
        {"--override-kv", "tokenizer.ggml.add_bos_token=bool:false"},
        {"--no-token", "--jinja"},
        {"--print-tokens", "-m", "x.gguf", "--log-keys", "-c", "9"},
        {"-m", "/data/token=b/m.gguf", "PWD=/home"},
        {"-p", "what a token is = a key", "-n", "9"},
        {"https://host/a@b"},
        {"", "-", "--", "="},
    };
    for (const Words& given : cases) EXPECT_EQ(without_secrets(given), given) << given.front();
}

TEST_F(AttachHosts, NoKeyOfTheCommandLineStandsInTheRecording) {
    const std::string host = ATTNSCOPE_ATTACH_HOST " " + model + " 3 1 11 27 3";
    const Answer answer = attach("env A_TOKEN=hush1 sh -c 'exec " + host + "' sh --api-key hush2 --password=hush3");
    ASSERT_EQ(answer.code, 0) << said;
    const std::vector<std::string> files = recordings(out);
    ASSERT_EQ(files.size(), 1u) << said;
    auto recording = Recording::open(files[0]);
    ASSERT_TRUE(recording);
    const std::string& settings = (*recording)->info().settings_json;
    EXPECT_NE(settings.find("\"--api-key\",\"***\",\"--password=***\""), std::string::npos) << settings;
    EXPECT_NE(settings.find("\"A_TOKEN=***\""), std::string::npos) << settings;
    EXPECT_NE(shell("grep -c hush " + files[0]).code, 0) << "nowhere in the file";
}
