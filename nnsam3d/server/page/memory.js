// What the browser remembers for this address: in this tab first, otherwise from the tab used last.

const here = (name) => `nnsam3d ${location.pathname} ${name}`; // other servers may be behind the same host

export function remember(name, value) {
  for (const store of stores()) store.setItem(here(name), value);
}

// The value, or null.
export function recall(name) {
  for (const store of stores()) {
    const value = store.getItem(here(name));
    if (value !== null) return value;
  }
  return null;
}

// Browsers can be set to refuse them.
function stores() {
  try {
    return [sessionStorage, localStorage];
  } catch {
    return [];
  }
}
