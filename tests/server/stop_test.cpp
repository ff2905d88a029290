// A server that is told to end does so, whoever hangs on it.
#include "served_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;

TEST(Stop, ClientsThatSentHalfARequestAreNotWaitedFor) {
    std::optional<ServedModel> served;
    served.emplace(); // its --timeout is two minutes
    ASSERT_TRUE(served->ok()) << served->error();
    const std::string host = "Host: 127.0.0.1:" + std::to_string(served->port()) + "\r\n";
    std::vector<int> sockets;
    for (const std::string& said :
         {std::string(), "POST /api/v1/gen" + std::string(), "POST /api/v1/generate HTTP/1.1\r\n" + host,
          "POST /api/v1/generate HTTP/1.1\r\n" + host + "Content-Length: 1000\r\n\r\n{\"prompt\""}) {
        const int s = socket(AF_INET, SOCK_STREAM, 0);
        ASSERT_GE(s, 0);
        sockets.push_back(s);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<uint16_t>(served->port()));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ASSERT_EQ(connect(s, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        ASSERT_EQ(send(s, said.data(), said.size(), 0), static_cast<ssize_t>(said.size()));
    }
    served->get("/health"); // whoever came before it is being served
    const auto start = std::chrono::steady_clock::now();
    served.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
    for (const int s : sockets) close(s);
}
