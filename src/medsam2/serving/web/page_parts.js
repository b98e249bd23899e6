/** Parts of the page; index.html says which kind of element each is. */

/**
 * The element of an id.
 * @returns {any}
 */
export const by = (id) => document.getElementById(id);

/**
 * All elements of a selector.
 * @returns {any[]}
 */
export const all = (selector) => [...document.querySelectorAll(selector)];
