// expect: jet: a tensor name is longer than 63 characters
#include <jet/core/shape.hpp>

jet::Name const name("a_name_that_goes_on_and_on_and_on_until_it_has_more_than_63_characters");
