#include <attnscope/session.h>

#include "base/enum_names.h"

namespace attnscope {

namespace {

constexpr base::EnumNames<FlashAttention, 3> flash_names{{
    {FlashAttention::automatic, "auto"},
    {FlashAttention::on, "on"},
    {FlashAttention::off, "off"},
}};
constexpr base::EnumNames<Entry, 3> entry_names{{
    {Entry::automatic, "auto"},
    {Entry::interposed, "interposed"},
    {Entry::callback, "callback"},
}};

} // namespace

const char* flash_attention_name(FlashAttention flash) {
    return base::name_of(flash_names, flash);
}
Result<FlashAttention> flash_attention_from_name(std::string_view name) {
    return base::value_of(flash_names, name, "flash_attention");
}
const char* entry_name(Entry entry) {
    return base::name_of(entry_names, entry);
}
Result<Entry> entry_from_name(std::string_view name) {
    return base::value_of(entry_names, name, "entry");
}

} // namespace attnscope
