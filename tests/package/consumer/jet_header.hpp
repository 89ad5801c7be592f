// The widest header of the CPU that there is.
#pragma once
#if __has_include(<jet/jet.hpp>)
#include <jet/jet.hpp>
#else
#include <jet/core/error.hpp>
#include <jet/core/state.hpp>
#endif
#if defined(CONSUMER_USES_TOKENIZER)
#include <jet/io/tokenizer.hpp>
#endif
