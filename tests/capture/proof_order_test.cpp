// Every head has its turn to be proven, whatever number of proofs a token has.
#include "capture/collector.h"

#include <gtest/gtest.h>

#include <set>

using namespace attnscope::capture;

TEST(ProofOrder, ReachesEveryHeadWithAnyNumberOfProofsAToken) {
    for (const uint64_t n_pairs : {1, 2, 72, 270, 336, 784}) {
        for (const int32_t each : {1, 2, 3}) {
            for (int32_t now = 1; now <= each; ++now) {
                std::set<uint64_t> alone, together;
                for (uint64_t token = 0; token < n_pairs; ++token) {
                    for (int32_t w = 0; w < now; ++w) {
                        alone.insert(proof_pair(token * uint64_t(each), 0, each, now, w, n_pairs));
                        together.insert(proof_pair(0, int64_t(token), each, now, w, n_pairs));
                    }
                }
                EXPECT_EQ(alone.size(), n_pairs) << each << " counted, " << now << " made";
                EXPECT_EQ(together.size(), n_pairs) << each << " counted, " << now << " made";
                EXPECT_LT(*alone.rbegin(), n_pairs);
            }
        }
    }
}
